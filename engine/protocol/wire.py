"""Frames between a client and the resident engine: a length (4 bytes, big endian) and a msgpack struct."""

from __future__ import annotations

import asyncio
import struct
from typing import TypeVar

import msgspec
from msgspec import Struct

from engine.protocol.messages import AnswerRequest, Control, EngineStatus, Event
from engine.protocol.preview import PreviewEvent, PreviewRequest
from engine.protocol.replay import ReplayEvent, ReplayRequest
from engine.protocol.settling import SettlingEvent, SettlingRequest
from engine.protocol.spec import ModelSpec
from engine.protocol.speed import SpeedEvent, SpeedRequest

AnyEvent = Event | SpeedEvent | PreviewEvent | ReplayEvent | SettlingEvent
"""Of whatever was asked for."""

MAX_FRAME = 64 * 1024 * 1024
"""Bytes: far above a prompt of a megabyte, far below what would exhaust memory."""


class Hello(Struct, frozen=True, tag="hello"):
    """First frame of a client; an engine of another build is replaced by one of this."""

    build: str
    keep_alive_s: float | None = None
    """Seconds of idleness after which the engine leaves, 0 to leave with its last client; None leaves it."""


class Load(Struct, frozen=True, tag="load"):
    """Load a model; answered by events under this id."""

    id: str
    spec: ModelSpec


class Ask(Struct, frozen=True, tag="ask"):
    """Answer a request; answered by events under the request's id."""

    request: AnswerRequest


class Measure(Struct, frozen=True, tag="measure"):
    """Measure a model's speed; answered by events under the request's id."""

    request: SpeedRequest


class Foresee(Struct, frozen=True, tag="foresee"):
    """Preview an answer; answered by events under the request's id."""

    request: PreviewRequest


class Recompute(Struct, frozen=True, tag="recompute"):
    """Replay an answer; answered by events under the request's id."""

    request: ReplayRequest


class Settle(Struct, frozen=True, tag="settle"):
    """Find where a thought settled; answered by events under the request's id."""

    request: SettlingRequest


class Steer(Struct, frozen=True, tag="steer"):
    """Control a running answer; a measurement can be cancelled."""

    id: str
    control: Control


class Query(Struct, frozen=True, tag="query"):
    """Ask for the engine's status."""


class Shutdown(Struct, frozen=True, tag="shutdown"):
    """End the engine: now, or when the answers under way are done."""

    when_idle: bool = False


class Welcome(Struct, frozen=True, tag="welcome"):
    """The engine's answer to Hello."""

    build: str
    pid: int


class EventFrame(Struct, frozen=True, tag="event"):
    """An event of the load, answer, measurement or preview with this id."""

    id: str
    event: AnyEvent


class StatusFrame(Struct, frozen=True, tag="status"):
    """The answer to Query."""

    status: EngineStatus


Frame = TypeVar("Frame")
ClientFrame = Hello | Load | Ask | Measure | Foresee | Recompute | Settle | Steer | Query | Shutdown
EngineFrame = Welcome | EventFrame | StatusFrame

_encoder = msgspec.msgpack.Encoder()
_client_decoder = msgspec.msgpack.Decoder(ClientFrame)
_engine_decoder = msgspec.msgpack.Decoder(EngineFrame)


class FrameError(Exception):
    """The other side sent something that is no frame of this protocol."""


def encode(frame: ClientFrame | EngineFrame) -> bytes:
    """The frame as bytes on the wire."""
    body = _encoder.encode(frame)
    return struct.pack(">I", len(body)) + body


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readexactly(4)
        (size,) = struct.unpack(">I", head)
        if size > MAX_FRAME:
            raise FrameError(f"a frame of {size} bytes is over the limit of {MAX_FRAME}")
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def read_client_frame(reader: asyncio.StreamReader) -> ClientFrame | None:
    """The next frame that a client sent, or None at the end of its stream."""
    body = await _read(reader)
    return None if body is None else _decode(_client_decoder, body)


async def read_engine_frame(reader: asyncio.StreamReader) -> EngineFrame | None:
    """The next frame that the engine sent, or None at the end of its stream."""
    body = await _read(reader)
    return None if body is None else _decode(_engine_decoder, body)


def _decode(decoder: msgspec.msgpack.Decoder[Frame], body: bytes) -> Frame:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise FrameError(f"unreadable frame: {error}") from error
