"""The resident engine's process (`python -m engine.worker`): owns the model, answers one request at a time.

It binds its socket before it imports torch, so that a client can attach and hear how loading goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import stat
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from engine.build import build_id
from engine.jobs import Client, Job
from engine.meter.receipt import Clock
from engine.protocol import (
    Cancel,
    EngineStatus,
    Failed,
    Finished,
    Loaded,
    Loading,
    ModelSpec,
    Queued,
)
from engine.protocol.wire import (
    Ask,
    ClientFrame,
    FrameError,
    Hello,
    Load,
    Query,
    Shutdown,
    StatusFrame,
    Steer,
    Welcome,
    read_client_frame,
)
from engine.thinking.run import UsageError, answer

if TYPE_CHECKING:
    from engine.runtime.local import LocalBackend

KEEP_ALIVE_S = 600.0
Stamp = tuple[tuple[str, int, int], ...]

log = logging.getLogger("mull.engine")


class Worker:
    """Accepts clients, queues their jobs and runs them in order, on one model at a time."""

    def __init__(self, socket: Path, log_file: Path, profiles: Path | None) -> None:
        self._socket = socket
        self._profiles = profiles
        self._log_file = log_file
        self._keep_alive_s = KEEP_ALIVE_S
        self._clients: set[Client] = set()
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stop_when_idle = False
        self._backend: LocalBackend | None = None
        self._loaded: tuple[ModelSpec, Stamp] | None = None
        self._load_span_ns = (0, 0)
        self._began = self._last_used = time.monotonic()

    async def serve(self) -> None:
        """Serve until told to stop, or idle for long enough."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        old = os.umask(0o177)  # the socket is created for this user alone
        try:
            server = await asyncio.start_unix_server(self._attended, self._socket)
        finally:
            os.umask(old)
        identity = _identity(self._socket)
        # torch takes seconds to import: begin before the first client has said what it wants
        warm = asyncio.create_task(asyncio.to_thread(_import_runtime))
        jobs = asyncio.create_task(self._run_jobs(warm))
        idle = asyncio.create_task(self._leave_when_idle())
        log.info("listening, build %s", build_id())
        await self._stopping.wait()
        server.close()
        for job in [*self._queue, *([self._running] if self._running else [])]:
            job.steering.control(Cancel())
        self._queue.clear()
        self._wake.set()
        idle.cancel()
        await asyncio.wait([jobs], timeout=2)
        if _identity(self._socket) == identity:  # another engine may have taken the place meanwhile
            self._socket.unlink(missing_ok=True)
        for client in list(self._clients):
            client.writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await asyncio.wait_for(client.writer.wait_closed(), 1)
        log.info("left")
        logging.shutdown()
        os._exit(0)  # a load or a chat template in another thread may not hold the process back

    async def _attended(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(writer)
        try:
            hello = await read_client_frame(reader)
            if not isinstance(hello, Hello):
                return
            self._clients.add(client)
            if hello.keep_alive_s is not None:
                self._keep_alive_s = hello.keep_alive_s
            client.send(Welcome(build_id(), os.getpid()))
            while frame := await read_client_frame(reader):
                self._handle(client, frame)
        except FrameError as error:
            log.warning("a client was let go: %s", error)
        finally:
            self._clients.discard(client)
            self._last_used = time.monotonic()
            for job in list(self._queue):
                if job.client is client:
                    self._queue.remove(job)
            if self._running is not None and self._running.client is client:
                self._running.steering.control(Cancel())
            writer.close()

    def _handle(self, client: Client, frame: ClientFrame) -> None:
        match frame:
            case Load(id=job_id, spec=spec):
                self._enqueue(Job(job_id, client, spec))
            case Ask(request=request):
                self._enqueue(Job(request.id, client, request.spec, request))
            case Steer(id=job_id, control=control):
                for job in [*self._queue, self._running]:
                    if job is not None and job.id == job_id and job.client is client:
                        job.steering.control(control)
            case Query():
                client.send(StatusFrame(self._status()))
            case Shutdown(when_idle=when_idle):
                self._stop_when_idle = True
                if not when_idle or self._idle:
                    self._stopping.set()

    @property
    def _idle(self) -> bool:
        return self._running is None and not self._queue

    def _enqueue(self, job: Job) -> None:
        before = [*self._queue, *([self._running] if self._running is not None else [])]
        if answers := sum(other.request is not None for other in before):
            job.tell(Queued(ahead=answers))
        elif before:
            job.tell(Loading(stage="waiting for the model"))
        self._queue.append(job)
        self._wake.set()

    async def _run_jobs(self, warm: asyncio.Task[None]) -> None:
        while not self._stopping.is_set():
            if not self._queue:
                if self._stop_when_idle:
                    self._stopping.set()
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            self._running = job = self._queue.popleft()
            try:
                await self._run(job, warm)
            except Exception as error:  # the engine outlives any answer
                log.exception("job %s failed", job.id)
                cause = f"{type(error).__name__}: {error}".splitlines()[0]
                job.tell(
                    Failed(code="engine", message=f"the engine failed: {cause}", hint=f"see {self._log_file}")
                )
            finally:
                self._running = None
                self._last_used = time.monotonic()

    async def _run(self, job: Job, warm: asyncio.Task[None]) -> None:
        from engine.load.errors import ModelError
        from engine.runtime.sampler import NotFinite

        began_ns = time.monotonic_ns()
        if not warm.done():
            job.tell(Loading(stage="importing torch"))
        await warm
        loaded = self._backend
        backend = await self._ready(job)
        if isinstance(backend, Failed):
            job.tell(backend)
            return
        if backend is not loaded:
            self._load_span_ns = (began_ns, time.monotonic_ns())
        load_s = self._loading_seconds(job)
        if job.request is None or backend is not loaded:
            job.tell(Loaded(model=backend.info, seconds=load_s))
        if job.request is not None:
            try:
                clock = Clock(job.accepted_ns, time.monotonic_ns(), load_s)
                done = await answer(job.request, backend, job.tell, job.steering, clock)
                job.tell(Finished(answer=done))
            except UsageError as error:
                job.tell(Failed(code=error.code, message=str(error), hint=error.hint))
            except NotFinite as error:
                job.tell(Failed(code="model", message=str(error), hint="download the model again"))
            except ModelError as error:
                job.tell(Failed(code="model", message=error.message, hint=error.hint))

    def _loading_seconds(self, job: Job) -> float:
        """Seconds since the job was accepted that went into loading, for it or for the one before it."""
        began, ended = self._load_span_ns
        return max(0, ended - max(began, job.accepted_ns)) / 1e9

    async def _ready(self, job: Job) -> LocalBackend | Failed:
        """The backend for the job's model, loaded where it was not there, or why not."""
        from engine.load.errors import DoesNotFit, ModelError
        from engine.setup import BadSpec, check, open_backend

        wanted = (job.spec, _stamp(job.spec))
        if self._backend is not None and self._loaded == wanted:
            return self._backend
        loop = asyncio.get_running_loop()

        def progressed(stage: str, done: int | None = None, total: int | None = None) -> None:
            loop.call_soon_threadsafe(job.tell, Loading(stage=stage, done=done, total=total))

        try:
            if self._backend is not None:  # what cannot be loaded is no reason to let go of what is there
                await asyncio.to_thread(check, job.spec, self._profiles)
            self._unload()
            backend = await asyncio.to_thread(open_backend, job.spec, self._profiles, progressed)
        except ModelError as error:
            code: Literal["fit", "model"] = "fit" if isinstance(error, DoesNotFit) else "model"
            return Failed(code=code, message=error.message, hint=error.hint)
        except BadSpec as error:
            return Failed(code="usage", message=str(error), hint=error.hint)
        self._backend, self._loaded = backend, wanted
        log.info("loaded %s", backend.info.name)
        return backend

    def _unload(self) -> None:
        if self._backend is not None:
            self._backend.close()
        self._backend = self._loaded = None

    async def _leave_when_idle(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(min(1.0, max(0.05, self._keep_alive_s / 10)))
            if self._unloads_in() == 0:
                log.info("idle for %.0f s", self._keep_alive_s)
                self._stopping.set()

    def _unloads_in(self) -> float | None:
        if not self._idle or (self._keep_alive_s == 0 and self._clients):
            return None
        if self._keep_alive_s == 0 and time.monotonic() - self._began < 2:
            return 2.0  # its first client is about to attach
        return max(0.0, self._last_used + self._keep_alive_s - time.monotonic())

    def _status(self) -> EngineStatus:
        return EngineStatus(
            pid=os.getpid(),
            build=build_id(),
            model=self._backend.info if self._backend is not None else None,
            answering=int(self._running is not None),
            queued=len(self._queue),
            clients=len(self._clients),
            memory_bytes=psutil.Process().memory_info().rss,
            kv_idle_bytes=self._backend.memory().kv_idle if self._backend is not None else 0,
            uptime_s=time.monotonic() - self._began,
            keep_alive_s=self._keep_alive_s,
            unloads_in_s=self._unloads_in(),
            log=str(self._log_file),
        )


def _stamp(spec: ModelSpec) -> Stamp:
    """What tells that the files of a model's folder are still those that were loaded."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for path in sorted(Path(spec.model).glob("*")):
            if path.suffix in (".json", ".safetensors", ".jinja"):
                state = path.stat()
                found.append((path.name, state.st_size, state.st_mtime_ns))
    return tuple(found)


def _import_runtime() -> None:
    os.environ.setdefault(
        "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
    )  # the driver's own numbering, as detection has it
    import engine.setup  # noqa: F401


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.worker", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--profiles", type=Path, help="folder of the user's own hardware profiles")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    asyncio.run(Worker(options.socket, options.log, options.profiles).serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
