"""What a bench found: accuracy against cost, by model, method and thinking budget.

The report is the published schema `mull.bench/1`; until 1.0 fields are only added.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from engine.protocol.receipt import Environment, Quantity


class BenchRow(Struct, frozen=True, kw_only=True):
    """One model with one method and budget on `n` problems, each answered `samples` times.

    `accuracy` is the mean over answers; its 95 % interval counts problems, not answers. Quantities are means
    over answers: `tokens` are all that were sampled or forced, `thinking_tokens` those of the thought,
    `seconds` the answer's share of the forwards that others were in too, `latency` from asking to the end
    beside these others, `flops` as if nothing of the prompt had been cached.
    """

    model: str
    method: str
    budget: str
    """off, max or the cap in tokens."""
    seed: int | None
    """None: all seeds together."""
    n: int
    samples: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    any_right: float | None = None
    """Share of problems that at least one sample solves; None where there is one sample."""
    tokens: Quantity
    thinking_tokens: Quantity
    seconds: Quantity
    latency: Quantity
    flops: Quantity
    joules: Quantity
    cut: float
    """Share of answers whose thought the budget ended."""
    unanswered: int = 0
    """Answers that there are not, for they do not fit into the context; they count as wrong."""
    front: bool = False
    """No other row of this report costs as little and solves as much (by the figure that `against` names)."""
    temperature: float | None = None
    """At which tokens were sampled."""
    profile: str


class BenchModel(Struct, frozen=True, kw_only=True):
    """A model of the report, and what it ran on."""

    model: str
    fingerprint: str
    environment: Environment | None
    parallel: int
    """Answers that were under way at once."""


class BenchEnough(Struct, frozen=True, kw_only=True):
    """Where thinking stops paying: no larger budget solves significantly more of the same problems.

    `most` is the largest budget, `gain` what it solves more, as a difference of accuracies. Its `p` would
    have to be below `threshold`; both are None where `budget` is the largest.
    """

    model: str
    method: str
    budget: str
    accuracy: float
    most: str
    gain: float
    p: float | None
    threshold: float | None


class BenchReport(Struct, frozen=True, kw_only=True):
    """What `mull bench --json` prints. `rows` are by seed, `cells` are all seeds together."""

    schema: Literal["mull.bench/1"] = "mull.bench/1"
    created: str
    """Time in UTC, ISO 8601."""
    mull: str
    tasks: str
    tasks_digest: str
    """Names the problems, in their order."""
    split: str
    problems: int
    """Problems of a seed."""
    samples: int
    seeds: tuple[int, ...]
    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_tokens: int | None
    """None: the model's own, as are temperature, top_p and top_k; what they were is in the environments."""
    system: str
    against: str
    """The cost by which rows are on the front: flops, tokens, seconds or joules."""
    interval: str
    test: str
    results: str
    """The file that holds each answer."""
    models: tuple[BenchModel, ...]
    rows: tuple[BenchRow, ...]
    cells: tuple[BenchRow, ...]
    enough: tuple[BenchEnough, ...]
    notes: tuple[str, ...] = ()
