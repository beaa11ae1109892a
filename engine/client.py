"""Reach an engine from an app: attach to the resident one or start it. Loads no torch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.build import build_id
from engine.link import ANSWER_TIMEOUT_S, EngineGone, Link
from engine.load.locate import BUNDLED
from engine.protocol import (
    AnswerRequest,
    Cancel,
    Control,
    EngineStatus,
    Event,
    Failed,
    Finished,
    Loaded,
    Loading,
    ModelSpec,
)
from engine.protocol.preview import Previewed, PreviewEvent, PreviewRequest
from engine.protocol.replay import Replayed, ReplayEvent, ReplayRequest
from engine.protocol.settling import Settled, SettlingEvent, SettlingRequest
from engine.protocol.speed import Measured, SpeedEvent, SpeedRequest
from engine.protocol.wire import (
    Ask,
    ClientFrame,
    Foresee,
    Load,
    Measure,
    Recompute,
    Settle,
    Shutdown,
    Steer,
)

__all__ = ["EngineGone", "Places", "ResidentEngine", "resident"]

START_TIMEOUT_S = 30.0
"""A worker binds its socket before it imports torch; a machine that swaps may still need seconds."""
SHUTDOWN_TIMEOUT_S = 8.0
"""Within this an engine that was told to leave has left; then it is killed."""
HANDOVER_TIMEOUT_S = 600.0
"""How long an engine of another build may take to finish the answers under way."""

Request = TypeVar("Request", AnswerRequest, SpeedRequest, PreviewRequest, ReplayRequest, SettlingRequest)
Last = Loaded | Finished | Measured | Previewed | Replayed | Settled


@dataclass(frozen=True)
class Places:
    """Where the resident engine listens, where its native output goes, and what it may use of the user's."""

    socket: Path
    log: Path
    profiles: Path | None = None
    """The user's own hardware profiles."""
    prompts: Path | None = None
    """Where it keeps what prompts were computed to; None: nowhere."""
    prompt_bytes: int | None = None
    """How much these may take; None: the engine's default, 0: nothing is kept."""
    quantized: Path | None = None
    """Where it keeps weights that it quantized; None: nowhere."""
    quantized_bytes: int | None = None
    """As for prompts."""
    calibrations: Path | None = None
    """What was measured of models, for the planner."""


class ResidentEngine:
    """The Engine that lives in a process of its own, shared by every client of this user.

    Nothing is started before `load` or `answer` is called. An engine that has left for idleness, crashed or
    was killed is started again by the next call.
    """

    def __init__(self, places: Places, keep_alive_s: float | None = None) -> None:
        self._places = places
        self._keep_alive_s = keep_alive_s
        self._link: Link | None = None
        self._attaching = asyncio.Lock()
        self._ids = itertools.count()

    def load(self, spec: ModelSpec) -> AsyncGenerator[Event, None]:
        stream_id = f"load-{os.getpid()}-{next(self._ids)}"
        return self._stream(stream_id, Load(stream_id, _absolute(spec)), Loaded)

    def answer(self, request: AnswerRequest) -> AsyncGenerator[Event, None]:
        return self._asked(request, Ask, Finished)

    def speed(self, request: SpeedRequest) -> AsyncGenerator[SpeedEvent, None]:
        return self._asked(request, Measure, Measured)

    def preview(self, request: PreviewRequest) -> AsyncGenerator[PreviewEvent, None]:
        return self._asked(request, Foresee, Previewed)

    def replay(self, request: ReplayRequest) -> AsyncGenerator[ReplayEvent, None]:
        return self._asked(request, Recompute, Replayed)

    def settling(self, request: SettlingRequest) -> AsyncGenerator[SettlingEvent, None]:
        return self._asked(request, Settle, Settled)

    async def control(self, answer_id: str, control: Control) -> None:
        if self._link is not None and self._link.alive:
            with contextlib.suppress(EngineGone):
                await self._link.send(Steer(answer_id, control))

    async def status(self) -> EngineStatus | None:
        if self._link is None or not self._link.alive:
            self._link = await self._connect()
        if self._link is None:
            return None
        with contextlib.suppress(EngineGone, TimeoutError):
            return await asyncio.wait_for(self._link.status(), ANSWER_TIMEOUT_S)
        return None

    async def shutdown(self) -> bool:
        """End the resident engine, of whatever build, whatever it is doing; False where none was running."""
        link = Link(*opened) if (opened := await self._open()) is not None else None
        if link is None:
            return False
        try:
            if await link.greet(None) is None:
                return False
            await link.send(Shutdown())
            await asyncio.wait_for(link.closed(), SHUTDOWN_TIMEOUT_S)
        except (EngineGone, TimeoutError):
            link.kill()
        await link.close()
        return True

    async def close(self) -> None:
        if self._link is not None:
            await self._link.close()
            self._link = None

    def _asked(
        self, request: Request, frame: Callable[[Request], ClientFrame], last: type[Last]
    ) -> AsyncGenerator[Any, None]:
        """What follows a request, up to the event that ends it."""
        request = msgspec.structs.replace(request, spec=_absolute(request.spec))
        return self._stream(request.id, frame(request), last)

    async def _stream(
        self, stream_id: str, first: ClientFrame, last: type[Last]
    ) -> AsyncGenerator[Any, None]:
        """What follows a first frame, up to the event that ends it; left early, the engine is told."""
        try:
            async for note in self._reach():
                yield note
        except EngineGone as error:
            yield Failed(code="engine", message=str(error), hint=f"its log is {self._places.log}")
            return
        link = self._link
        assert link is not None  # reached, or EngineGone
        ended = False
        with link.stream(stream_id) as queue:
            try:
                with contextlib.suppress(EngineGone):  # the queue then ends with None
                    await link.send(first)
                while event := await queue.get():
                    ended = isinstance(event, last | Failed)
                    yield event
                    if ended:
                        return
                ended = True
                yield Failed(
                    code="engine",
                    message="the engine went away; what it had said is kept",
                    hint=f"ask again to start it anew; its log is {self._places.log}",
                )
            finally:
                if not ended and link.alive:
                    with contextlib.suppress(EngineGone):
                        await link.send(Steer(stream_id, Cancel()))

    async def _reach(self) -> AsyncGenerator[Loading, None]:
        """Have a live connection to an engine of this build: attach to it, or start it."""
        async with self._attaching:
            if self._link is not None and self._link.alive and self._link.build == build_id():
                return
            self._link = await self._connect()
            if self._link is not None and self._link.build != build_id():
                yield Loading(stage="waiting for an engine of another version to finish")
                await self._hand_over(self._link)
                self._link = None
            if self._link is None:
                yield Loading(stage="starting the engine")
                self._link = await self._start()

    async def _hand_over(self, link: Link) -> None:
        """Have an engine of another build leave when its answers are done."""
        try:
            with contextlib.suppress(EngineGone):
                await link.send(Shutdown(when_idle=True))
            await asyncio.wait_for(asyncio.shield(link.closed()), HANDOVER_TIMEOUT_S)
        except TimeoutError:
            raise EngineGone("an engine of another version is still busy; `mull stop` ends it") from None
        finally:
            await link.close()

    async def _connect(self) -> Link | None:
        """A connection to the running engine, of whatever build; None where none runs."""
        opened = await self._open()
        if opened is None:
            return None
        link = Link(*opened)
        try:
            return link if await link.greet(self._keep_alive_s) is not None else None
        except EngineGone:
            await link.close()
            raise

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            return await asyncio.open_unix_connection(self._places.socket)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise EngineGone(f"the engine's socket cannot be used: {error.strerror or error}") from error

    async def _start(self) -> Link:
        """Start a worker and connect; of several clients that try at once, one starts it."""
        with _exclusively(self._places.socket.with_suffix(".lock")) as taken:
            deadline = time.monotonic() + START_TIMEOUT_S
            process: subprocess.Popen[bytes] | None = None
            while time.monotonic() < deadline:
                if not taken():
                    await asyncio.sleep(0.02)
                elif (link := await self._connect()) is not None:
                    return link
                elif process is None:
                    try:
                        process = self._spawn()
                    except OSError as error:
                        raise EngineGone(f"the engine cannot be started: {error}") from error
                elif process.poll() is not None:
                    raise EngineGone(f"the engine ended while starting (exit status {process.returncode})")
                else:
                    await asyncio.sleep(0.02)
            raise EngineGone(f"the engine did not start within {START_TIMEOUT_S:.0f} seconds")

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start a worker; nobody answered at the socket, so that what lies there is stale."""
        places = self._places
        places.socket.unlink(missing_ok=True)
        places.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--socket", str(places.socket), "--log", str(places.log)]
        if places.profiles is not None:
            arguments += ["--profiles", str(places.profiles)]
        if places.prompts is not None:
            arguments += ["--prompts", str(places.prompts)]
        if places.prompt_bytes is not None:
            arguments += ["--prompt-bytes", str(places.prompt_bytes)]
        if places.quantized is not None:
            arguments += ["--quantized", str(places.quantized)]
        if places.quantized_bytes is not None:
            arguments += ["--quantized-bytes", str(places.quantized_bytes)]
        if places.calibrations is not None:
            arguments += ["--calibrations", str(places.calibrations)]
        with places.log.open("ab") as log:
            # -P: a folder named `engine` or `app` in the working directory must not be imported for ours
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )


def resident(places: Places, keep_alive_s: float | None = None) -> ResidentEngine:
    """The resident engine at these places; `keep_alive_s` as in the Hello frame."""
    if not hasattr(asyncio, "open_unix_connection") or os.name != "posix":
        raise EngineGone("mull needs a Unix system; on Windows run it inside WSL2")
    return ResidentEngine(places, keep_alive_s)


@contextlib.contextmanager
def _exclusively(path: Path) -> Iterator[Callable[[], bool]]:
    """Yields a function that tries to take the lock on this file and tells whether it is held."""
    import fcntl

    with path.open("w") as handle:

        def taken() -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield taken


def _absolute(spec: ModelSpec) -> ModelSpec:
    """Models given as paths are meant from this process's working directory."""
    draft = spec.draft if spec.draft in (None, "off") else _absolute_path(spec.draft)
    return msgspec.structs.replace(spec, model=_absolute_path(spec.model), draft=draft)


def _absolute_path(model: str) -> str:
    """The path of a folder or GGUF file that is there; any other name as it is."""
    if model in BUNDLED:
        return model
    try:
        path = Path(model).expanduser()
        return str(path.absolute()) if path.is_dir() or (path.suffix == ".gguf" and path.is_file()) else model
    except (RuntimeError, OSError, ValueError):  # no such home, too long, NUL: the engine says so
        return model
