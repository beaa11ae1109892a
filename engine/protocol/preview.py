"""What answering would cost and how good it is expected to be, by method: asked for before anything runs.

The preview is the published schema `mull.preview/1`; until 1.0 fields are only added.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from engine.protocol.budget import Limit
from engine.protocol.messages import Failed, Loaded, Loading, Queued, Think
from engine.protocol.receipt import Unit
from engine.protocol.spec import Message, ModelSpec

Basis = Literal["measured", "shipped", "guess"]
"""Where figures come from: this user's own calibration, the one that the model came with, or neither."""


class PreviewRequest(Struct, frozen=True, kw_only=True):
    """Say what an answer to the last user message would cost, with each method, and choose one."""

    id: str
    spec: ModelSpec
    messages: tuple[Message, ...]
    think: Think = "max"
    """The most that may be thought: methods and settings beyond are left out."""
    budget: tuple[Limit, ...] = ()


class Spread(Struct, frozen=True, kw_only=True):
    """Half of the answers are expected to cost at most `p50`, nine of ten at most `p90`; None is unknown."""

    p50: float | None
    p90: float | None
    unit: Unit


class PreviewRow(Struct, frozen=True, kw_only=True):
    """A way to answer. `tokens` are all that would go through the model, the prompt included.

    Its accuracy is expected to lie in `accuracy_low` to `accuracy_high` (95 %); None where nobody has
    measured it.
    """

    method: str
    think: Think
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    tokens: Spread
    seconds: Spread
    joules: Spread
    flops: Spread
    fits: bool
    """Nine of ten such answers stay within the budget."""
    dead: bool
    """It thinks, and is expected to be right less often than without thinking."""
    chosen: bool


class Preview(Struct, frozen=True, kw_only=True):
    """What `mull ask --preview --json` prints."""

    schema: Literal["mull.preview/1"] = "mull.preview/1"
    model: str
    prompt_tokens: int
    budget: tuple[Limit, ...]
    rows: tuple[PreviewRow, ...]
    """The cheapest first."""
    reason: str
    """Why the chosen one was chosen, in one line."""
    answers: Basis
    """Of accuracies and tokens."""
    like: int
    """Calibration questions, most like this one, that accuracies and tokens follow from."""
    device: Literal["measured", "guess"]
    """Of seconds and joules."""
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> PreviewRow:
        return next(row for row in self.rows if row.chosen)


class Previewed(Struct, frozen=True, kw_only=True, tag="previewed"):
    """Here it is."""

    preview: Preview


PreviewEvent = Loading | Loaded | Queued | Previewed | Failed
