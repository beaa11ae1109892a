"""What the resident engine has to do, and for whom."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from engine.protocol import AnswerRequest, Event, ModelSpec
from engine.protocol.wire import EngineFrame, EventFrame, encode
from engine.thinking.run import Steering

MAX_UNSENT = 16 * 1024 * 1024
"""Bytes that may wait for a client that does not read; beyond, it is let go."""

log = logging.getLogger("mull.engine")


@dataclass(eq=False)
class Client:
    """A connected app."""

    writer: asyncio.StreamWriter

    def send(self, frame: EngineFrame) -> None:
        if self.writer.is_closing():
            return
        self.writer.write(encode(frame))
        if self.writer.transport.get_write_buffer_size() > MAX_UNSENT:
            log.warning("a client does not read what it asked for: letting it go")
            self.writer.transport.abort()


@dataclass(eq=False)
class Job:
    """A model to load, or a request to answer, for one client."""

    id: str
    client: Client
    spec: ModelSpec
    request: AnswerRequest | None = None
    steering: Steering = field(default_factory=Steering)
    accepted_ns: int = field(default_factory=time.monotonic_ns)

    def tell(self, event: Event) -> None:
        self.client.send(EventFrame(self.id, event))
