"""What the resident engine has to do, and for whom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from engine.protocol import AnswerRequest, Loading, ModelSpec, Queued
from engine.protocol.preview import PreviewRequest
from engine.protocol.replay import ReplayRequest
from engine.protocol.settling import SettlingRequest
from engine.protocol.speed import SpeedRequest
from engine.protocol.wire import AnyEvent, EngineFrame, EventFrame, encode
from engine.speed import Stop
from engine.thinking.run import Steering

MAX_UNSENT = 16 * 1024 * 1024
"""Bytes that may wait for a client that does not read; beyond, it is let go."""

log = logging.getLogger("mull.engine")


class ModelKey(NamedTuple):
    """A model as it lies on disk: what tells whether the loaded one is the one that is wanted."""

    spec: ModelSpec
    files: tuple[tuple[str, int, int], ...]
    """Name, size and time of change (ns) of each file that is read, a draft model's included."""

    @classmethod
    def of(cls, spec: ModelSpec) -> ModelKey:
        found = []
        for named in filter(None, (spec.model, spec.draft)):
            with contextlib.suppress(OSError, ValueError):
                place = Path(named)
                for path in [place] if place.is_file() else sorted(place.glob("*")):
                    if path.suffix in (".json", ".safetensors", ".jinja", ".gguf"):
                        state = path.stat()
                        found.append((path.name, state.st_size, state.st_mtime_ns))
        return cls(spec, tuple(found))


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
    """A model to load, to ask, measure, replay or probe, or to preview an answer with, for one client."""

    id: str
    client: Client
    model: ModelKey
    request: AnswerRequest | SpeedRequest | PreviewRequest | ReplayRequest | SettlingRequest | None = None
    steering: Steering | Stop = field(default_factory=Steering)
    accepted_ns: int = field(default_factory=time.monotonic_ns)
    _ahead: int | None = None
    """What it was told last of those that run first."""

    @property
    def group(self) -> Hashable:
        """Jobs for one model run together; what is measured runs alone."""
        return id(self) if isinstance(self.request, SpeedRequest) else self.model

    @property
    def brief(self) -> bool:
        """Where the model is there already, to load it is to say so, a preview is a sum, and who looks for
        where a thought settled gives way.
        """
        return self.request is None or self.idle or isinstance(self.request, PreviewRequest)

    @property
    def idle(self) -> bool:
        """It is done while nobody wants anything else."""
        return isinstance(self.request, SettlingRequest)

    @property
    def bulk(self) -> bool:
        """Several such take the place of one."""
        return isinstance(self.request, AnswerRequest) and self.request.bulk

    def tell(self, event: AnyEvent) -> None:
        self.client.send(EventFrame(self.id, event))

    def tell_place(self, ahead: int) -> None:
        """Say that so many answers have to end before this job begins, unless it knows."""
        if ahead != self._ahead:
            self._ahead = ahead
            self.tell(Queued(ahead=ahead) if ahead else Loading(stage="waiting for the model"))
