"""Where a thought's answer stopped changing: asked for after the answer, while nothing else runs."""

from __future__ import annotations

from msgspec import Struct

from engine.protocol.messages import Failed, Loading, Queued
from engine.protocol.receipt import Answer, Settling
from engine.protocol.spec import ModelSpec


class SettlingRequest(Struct, frozen=True, kw_only=True):
    """Find where the thought of this answer, which has a trace, settled, with the model that gave it.

    It begins only where nobody else wants anything of the engine, and ends as soon as somebody does.
    """

    id: str
    spec: ModelSpec
    answer: Answer


class Settled(Struct, frozen=True, kw_only=True, tag="settled"):
    """Here it is."""

    settling: Settling


SettlingEvent = Loading | Queued | Settled | Failed
