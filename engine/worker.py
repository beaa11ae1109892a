"""The resident engine's process (`python -m engine.worker`): owns the model, and answers whoever connects.

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
from pathlib import Path

import psutil

from engine.build import build_id
from engine.desk import Desk
from engine.jobs import Client, Job, ModelKey
from engine.loaded import LoadedModel
from engine.page_files import PageFolder
from engine.protocol import Cancel, Control, EngineStatus, Failed, Loading
from engine.protocol.wire import (
    Ask,
    ClientFrame,
    Foresee,
    FrameError,
    Hello,
    Load,
    Measure,
    Query,
    Recompute,
    Settle,
    Shutdown,
    StatusFrame,
    Steer,
    Welcome,
    read_client_frame,
)
from engine.quantized_folder import QuantizedFolder
from engine.speed import Stop
from engine.work import failure, work

KEEP_ALIVE_S = 600.0
LEAVING_S = 2.0
"""How long those whose answers are stopped may take to hear of it."""

UNLOADING_S = 3.0
"""How long the model may take to be let go of, with what waits to be written."""

log = logging.getLogger("mull.engine")


class Worker:
    """Accepts clients and their jobs, and has the desk say which of them run."""

    def __init__(self, socket: Path, log_file: Path, model: LoadedModel) -> None:
        self._socket = socket
        self._log_file = log_file
        self._keep_alive_s = KEEP_ALIVE_S
        self._clients: set[Client] = set()
        self._desk: Desk[Job] = Desk()
        self._tasks: set[asyncio.Task[None]] = set()
        self._model = model
        self._stopping = asyncio.Event()
        self._stop_when_idle = False
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
        self._model.warm()
        idle = asyncio.create_task(self._leave_when_idle())
        log.info("listening, build %s", build_id())
        await self._stopping.wait()
        server.close()
        idle.cancel()
        for job in self._desk.waiting:
            self._desk.withdraw(job)
        for job in self._desk.running:
            job.steering.control(Cancel())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVING_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._model.close(), UNLOADING_S)
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
            for job in [*self._desk.waiting, *self._desk.running]:
                if job.client is client:
                    self._control(job, Cancel())
            self._advance()
            writer.close()

    def _handle(self, client: Client, frame: ClientFrame) -> None:
        match frame:
            case Load(id=job_id, spec=spec):
                self._accept(Job(job_id, client, ModelKey.of(spec)))
            case Ask(request=request):
                self._accept(Job(request.id, client, ModelKey.of(request.spec), request))
            case Measure(request=request):
                self._accept(Job(request.id, client, ModelKey.of(request.spec), request, Stop()))
            case Foresee(request=request):
                self._accept(Job(request.id, client, ModelKey.of(request.spec), request))
            case Recompute(request=request):
                self._accept(Job(request.id, client, ModelKey.of(request.spec), request, Stop()))
            case Settle(request=request):
                self._accept_idle(Job(request.id, client, ModelKey.of(request.spec), request, Stop()))
            case Steer(id=job_id, control=control):
                for job in [*self._desk.waiting, *self._desk.running]:
                    if job.id == job_id and job.client is client:
                        self._control(job, control)
                self._advance()
            case Query():
                client.send(StatusFrame(self._status()))
            case Shutdown(when_idle=when_idle):
                self._stop_when_idle = True
                if not when_idle or self._desk.idle:
                    self._stopping.set()

    def _accept(self, job: Job) -> None:
        if not self._stopping.is_set():
            for other in self._desk.running:
                if other.idle:
                    other.steering.control(Cancel())
            self._desk.accept(job)
            self._advance()

    def _accept_idle(self, job: Job) -> None:
        """Begin what is done only while nobody wants anything else, and with the model that is there."""
        if not self._desk.idle:
            job.tell(Failed(code="cancelled", message="the engine has something else to do"))
        elif not self._model.has(job.model):
            job.tell(Failed(code="cancelled", message="the model is no longer loaded", hint="ask again"))
        else:
            self._accept(job)

    def _control(self, job: Job, control: Control) -> None:
        """Steer a job; one that is stopped before it has begun does not begin."""
        if isinstance(control, Cancel) and self._desk.withdraw(job):
            job.tell(Failed(code="cancelled", message="stopped before it began"))
        else:
            job.steering.control(control)

    def _advance(self) -> None:
        """Begin what may begin, and tell the others what they wait for."""
        while (job := self._desk.take()) is not None:
            task = asyncio.create_task(self._attend(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for waiting, ahead in self._desk.places():
            waiting.tell_place(ahead)
        if self._stop_when_idle and self._desk.idle:
            self._stopping.set()

    async def _attend(self, job: Job) -> None:
        try:
            await work(job, self._model, self._tell_loading)
        except Exception as error:  # the engine outlives any answer
            job.tell(failure(error, self._log_file))
        finally:
            self._last_used = time.monotonic()
            self._desk.finish(job)
            self._advance()

    def _tell_loading(self, event: Loading) -> None:
        """All that run wait for the model when one is loaded."""
        for job in self._desk.running:
            job.tell(event)

    async def _leave_when_idle(self) -> None:
        while not self._stopping.is_set():
            await asyncio.sleep(min(1.0, max(0.05, self._keep_alive_s / 10)))
            if self._unloads_in() == 0:
                log.info("idle for %.0f s", self._keep_alive_s)
                self._stopping.set()

    def _unloads_in(self) -> float | None:
        if not self._desk.idle or (self._keep_alive_s == 0 and self._clients):
            return None
        if self._keep_alive_s == 0 and time.monotonic() - self._began < 2:
            return 2.0  # its first client is about to attach
        return max(0.0, self._last_used + self._keep_alive_s - time.monotonic())

    def _status(self) -> EngineStatus:
        backend = self._model.backend
        return EngineStatus(
            pid=os.getpid(),
            build=build_id(),
            model=backend.info if backend is not None else None,
            answering=sum(not job.brief for job in self._desk.running),
            queued=sum(not job.brief for job in self._desk.waiting),
            clients=len(self._clients),
            memory_bytes=psutil.Process().memory_info().rss,
            kv_idle_bytes=backend.memory().kv_idle if backend is not None else 0,
            uptime_s=time.monotonic() - self._began,
            keep_alive_s=self._keep_alive_s,
            unloads_in_s=self._unloads_in(),
            log=str(self._log_file),
            prompt_store=backend.prompt_store() if backend is not None else None,
        )


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
    parser.add_argument("--prompts", type=Path, help="folder for what prompts were computed to")
    parser.add_argument("--prompt-bytes", type=int, help="how much these may take")
    parser.add_argument("--quantized", type=Path, help="folder for weights that were quantized here")
    parser.add_argument("--quantized-bytes", type=int, help="how much these may take")
    parser.add_argument("--calibrations", type=Path, help="folder of what was measured of models")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    prompts = PageFolder(options.prompts, options.prompt_bytes) if options.prompts is not None else None
    quantized = QuantizedFolder(options.quantized, options.quantized_bytes) if options.quantized else None
    loaded = LoadedModel(options.profiles, prompts, quantized, options.calibrations)
    asyncio.run(Worker(options.socket, options.log, loaded).serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
