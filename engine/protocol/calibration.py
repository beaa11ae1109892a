"""What was measured of a model and kept for the planner: how it answers, and how fast it is on a device."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from engine.protocol.messages import Think

NAME_DIGITS = 32
"""Of a fingerprint's hexadecimal digits, those that name a file."""
BESIDE = "calibration.json"
"""The name of a record that comes with a model, in the model's own folder."""


class Outcomes(Struct, frozen=True, kw_only=True):
    """What a way of answering gave: one entry in each column for each question, in the record's order."""

    method: str
    think: Think
    right: tuple[int, ...]
    """1 where the answer was right, else 0."""
    thinking: tuple[int, ...]
    """Tokens of the kept answer's thought."""
    tokens: tuple[int, ...]
    """All that were sampled or forced, those of answers that were not kept included."""
    path: tuple[int, ...]
    """Tokens one after another: as many steps as the answer takes where its candidates run side by side."""


class CalibrationRecord(Struct, frozen=True, kw_only=True):
    """How a model answers, measured on questions that no test uses.

    Of a question it holds what can be counted (`engine.tasks.features`), and no word.
    """

    schema: Literal["mull.calibration/1"] = "mull.calibration/1"
    created: str
    mull: str
    model: str
    fingerprint: str
    tasks: str
    tasks_digest: str
    seeds: tuple[int, ...]
    questions: tuple[tuple[int, ...], ...]
    outcomes: tuple[Outcomes, ...]


class StepTime(Struct, frozen=True):
    """Seconds that a decode step takes which goes on with so many answers at once."""

    rows: int
    seconds: float


class DeviceCurve(Struct, frozen=True, kw_only=True):
    """How fast a model decodes on a device, by the rows of a step (ascending), and how fast it prefills."""

    schema: Literal["mull.device/1"] = "mull.device/1"
    created: str
    mull: str
    model: str
    fingerprint: str
    device: str
    threads: int
    context: int
    """Tokens in the cache of each row, about, where that was measured."""
    steps: tuple[StepTime, ...]
    prefill_tok_s: float


def record_name(fingerprint: str) -> str:
    """The file with the record of a model."""
    return f"{fingerprint[:NAME_DIGITS]}.json"


def curve_name(fingerprint: str) -> str:
    """The file with the curve of a model, on the device and the threads that its fingerprint is of."""
    return f"{fingerprint[:NAME_DIGITS]}.device.json"
