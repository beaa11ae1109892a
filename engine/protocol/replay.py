"""Recomputing an answer from its trace: the request, the events while that goes on, and the report.

The report is the published schema `mull.replay/1`; until 1.0 fields are only added.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from engine.protocol.messages import Failed, Loaded, Loading, Queued
from engine.protocol.receipt import Answer
from engine.protocol.spec import Message, ModelSpec


class ReplayRequest(Struct, frozen=True, kw_only=True):
    """Recompute each choice of an answer, which has a trace, with the model that `spec` names.

    `messages` are the conversation that it answers.
    """

    id: str
    spec: ModelSpec
    answer: Answer
    messages: tuple[Message, ...]


class Replaying(Struct, frozen=True, kw_only=True, tag="replaying"):
    """How far it is: `done` of `total` tokens are recomputed."""

    done: int
    total: int


class Mismatch(Struct, frozen=True, kw_only=True):
    """A choice that came out otherwise; `position` counts the path's tokens from 0, the prompt's first.

    `margin` is by how much two logits would have to differ from what they are for the recorded token to be
    chosen, the noise and the filters taken into account; None where that could not be, for it was banned.
    """

    candidate: str
    position: int
    recorded: int
    recorded_text: str
    recomputed: int
    recomputed_text: str
    margin: float | None
    verdict: Literal["close", "different"]


class PathReplay(Struct, frozen=True, kw_only=True):
    """How a path came out: `choices` were recomputed, `agreed` are the same, `close` within the tolerance.

    `shift` is the mean difference of the chosen tokens' logits from the recorded ones, where it is largest.
    """

    candidate: str
    choices: int
    agreed: int
    close: int
    shift: float
    first: Mismatch | None = None


class Difference(Struct, frozen=True):
    """Something that is not as it was recorded, in one line."""

    what: Literal["trace", "model", "template", "prompt", "choices", "logits", "receipt", "text"]
    text: str


class ReplayReport(Struct, frozen=True, kw_only=True):
    """How an answer came out. Where there are no `differences`, it is what the model says.

    `tolerance` is the margin in logits up to which a mismatch is put down to rounding: a prefill adds up in
    another order than a decode. `notes` do not count as differences.
    """

    turn: str = ""
    """Of the session, where the answer is of one."""
    model: str
    method: str
    recorded: str
    """The kernel class of the answer, and of the replay."""
    replayed: str
    tolerance: float
    paths: tuple[PathReplay, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()


class Replayed(Struct, frozen=True, kw_only=True, tag="replayed"):
    """It is done."""

    report: ReplayReport


class ReplayReports(Struct, frozen=True, kw_only=True):
    """What `mull replay --json` prints: a report for each answer; `untraced` turns had nothing to replay."""

    schema: Literal["mull.replay/1"] = "mull.replay/1"
    answers: tuple[ReplayReport, ...]
    untraced: tuple[str, ...] = ()


ReplayEvent = Loading | Loaded | Queued | Replaying | Replayed | Failed
