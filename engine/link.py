"""One connection to the resident engine. Knows frames, not how an engine is found or started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator

from engine.build import build_id
from engine.protocol import EngineStatus
from engine.protocol.wire import (
    AnyEvent,
    ClientFrame,
    EventFrame,
    FrameError,
    Hello,
    Query,
    StatusFrame,
    Welcome,
    encode,
    read_engine_frame,
)

ANSWER_TIMEOUT_S = 5.0
"""Within this an engine that works answers a greeting or a question for its status."""


class EngineGone(Exception):
    """The engine could not be started, or went away. The message is one line with the cause."""


class Link:
    """One connection to a resident engine; frames are handed to the stream that they belong to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._streams: dict[str, asyncio.Queue[AnyEvent | None]] = {}
        self._status: asyncio.Queue[EngineStatus | None] = asyncio.Queue()
        self._pump: asyncio.Task[None] | None = None
        self.alive = True
        self.build = ""

    async def greet(self, keep_alive_s: float | None) -> Welcome | None:
        """Exchange Hello and Welcome, and begin to listen; None from an engine that is just leaving.

        Raises EngineGone where it does not answer.
        """
        try:
            await self.send(Hello(build_id(), keep_alive_s))
            frame = await asyncio.wait_for(read_engine_frame(self._reader), ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise EngineGone("the engine does not answer; `mull stop` ends it") from None
        except (EngineGone, FrameError):
            frame = None
        if not isinstance(frame, Welcome):
            await self.close()
            return None
        self.build = frame.build
        self._pump = asyncio.create_task(self._listen())
        return frame

    def kill(self) -> None:
        """End the engine's process without its help."""
        option = getattr(socket, "SO_PEERCRED", None)
        if option is not None:
            raw = self._writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, option, 12)
            with contextlib.suppress(ProcessLookupError):
                os.kill(struct.unpack("3i", raw)[0], signal.SIGKILL)

    async def send(self, frame: ClientFrame) -> None:
        try:
            self._writer.write(encode(frame))
            await self._writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise EngineGone("the engine went away") from error

    @contextlib.contextmanager
    def stream(self, stream_id: str) -> Iterator[asyncio.Queue[AnyEvent | None]]:
        queue: asyncio.Queue[AnyEvent | None] = asyncio.Queue()
        self._streams[stream_id] = queue
        if not self.alive:
            queue.put_nowait(None)
        try:
            yield queue
        finally:
            del self._streams[stream_id]

    async def status(self) -> EngineStatus | None:
        await self.send(Query())
        return await self._status.get()

    async def closed(self) -> None:
        """Wait until the engine has ended the connection."""
        if self._pump is not None:
            await self._pump

    async def close(self) -> None:
        self._writer.close()
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            await self._writer.wait_closed()

    async def _listen(self) -> None:
        try:
            while frame := await read_engine_frame(self._reader):
                if isinstance(frame, EventFrame) and frame.id in self._streams:
                    self._streams[frame.id].put_nowait(frame.event)
                elif isinstance(frame, StatusFrame):
                    self._status.put_nowait(frame.status)
        except FrameError:
            self._writer.close()
        finally:
            self.alive = False
            for queue in self._streams.values():
                queue.put_nowait(None)
            self._status.put_nowait(None)
