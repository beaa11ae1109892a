"""What each way to answer would cost, which of them fit a budget, and which to choose. Pure; runs nothing.

After Snell et al. 2024 (arXiv:2408.03314): the best way depends on the question and on the budget, and here
on the budget's unit too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.protocol import BudgetUnit, Limit, ModelInfo, Think
from engine.protocol.preview import Preview, PreviewRow, Spread
from engine.thinking.planner.courses import Beta, Course, Figures, guessed, measured
from engine.thinking.planner.machine import Machine
from engine.thinking.planner.store import Known

COST_WEIGHT = 0.005
"""Of expected accuracy, given up to save all of the budget, or without one the cost of the dearest way."""


@dataclass(frozen=True)
class Option:
    """A way to answer with its costs, by unit."""

    course: Course
    each: dict[BudgetUnit, Figures | None]
    """What each of the course's answers would cost; None where it is not known."""
    costs: dict[BudgetUnit, Spread]

    @property
    def label(self) -> str:
        return named(self.course.method, self.course.think)

    def fits(self, limits: Sequence[Limit]) -> bool:
        """Whether nine of ten stay within each limit; a cost that is unknown speaks against nothing."""
        return all((self.p90(limit.unit) or 0) <= limit.amount for limit in limits)

    def within(self, limits: Sequence[Limit]) -> NDArray[np.bool_]:
        """Which of the course's answers stay within the limits; a cost that is unknown does."""
        found = np.ones(len(self.course.tokens), dtype=bool)
        for limit in limits:
            if (costs := self.each[limit.unit]) is not None:
                found &= costs <= limit.amount
        return found

    def accuracy(self, limits: Sequence[Limit] = ()) -> Beta | None:
        """How often it is expected to be right within the limits: a thought that they cut counts as wrong."""
        return self.course.results.accuracy(self.within(limits)) if self.course.results is not None else None

    def p50(self, unit: BudgetUnit) -> float | None:
        return self.costs[unit].p50

    def p90(self, unit: BudgetUnit) -> float | None:
        return self.costs[unit].p90


def survey(
    info: ModelInfo,
    question: str,
    prompt_tokens: int,
    known: Known,
    machine: Machine,
    methods: Collection[str],
    most: Think = "max",
) -> list[Option]:
    """The ways to answer that are known of, the cheapest first; of those that think no more than `most`.

    `methods` are those that there are, by name without number.
    """
    courses = measured(known.record, question) if known.record is not None else guessed(info)
    return sorted(
        (
            _option(course, prompt_tokens, machine)
            for course in courses
            if course.method.partition(":")[0] in methods and _thought(course.think) <= _thought(most)
        ),
        key=lambda option: option.p50("tok") or 0.0,
    )


def foreseen(
    info: ModelInfo,
    prompt_tokens: int,
    ways: Sequence[Option],
    limits: Sequence[Limit],
    known: Known,
    machine: Machine,
) -> Preview:
    """Each way's costs and accuracy, and the choice."""
    chosen, reason = choose(ways, limits)
    dead = dead_zone(ways)
    return Preview(
        model=info.name,
        prompt_tokens=prompt_tokens,
        budget=tuple(limits),
        rows=tuple(_row(option, limits, option in dead, option is chosen) for option in ways),
        reason=reason,
        answers=known.basis,
        like=len(ways[0].course.tokens) if known.record is not None else 0,
        device="measured" if machine.measured else "guess",
        notes=tuple(_notes(known, machine)),
    )


def choose(ways: Sequence[Option], limits: Sequence[Limit]) -> tuple[Option, str]:
    """The way that is most often right within the limits, less a little for its cost.

    Where no accuracy is known, the most thinking of which nine of ten fit. Where nothing helps, no thinking.
    """
    direct = next((option for option in ways if option.course.think == "off"), ways[0])
    alive = [option for option in ways if option not in dead_zone(ways)]
    if any(option.course.results is None for option in alive):
        fitting = [option for option in alive if option.fits(limits)]
        if not fitting:
            return direct, "nothing is sure to fit the budget: it answers directly"
        return fitting[-1], "the most thinking that fits: nobody has measured this model"
    expected = {id(option): _mean(option, limits) for option in alive}
    if not any(option.within(limits).any() for option in alive):
        return direct, "nothing fits the budget: it answers directly"
    dearest = max(option.p50("FLOP") or 0.0 for option in alive) or 1.0

    def share(option: Option) -> float:
        """Of the budget, or of the dearest way's cost."""
        if limits:
            return min(1.0, max((option.p50(limit.unit) or 0.0) / limit.amount for limit in limits))
        return (option.p50("FLOP") or 0.0) / dearest

    best = max(alive, key=lambda option: expected[id(option)] - COST_WEIGHT * share(option))
    others = sorted(
        (option for option in alive if option is not best), key=lambda option: -expected[id(option)]
    )
    beside = f"; {others[0].label} in {100 * expected[id(others[0])]:.0f} %" if others else ""
    within = " within the budget" if limits else ""
    return best, f"expected to be right{within} in {100 * expected[id(best)]:.0f} %{beside}"


def dead_zone(ways: Sequence[Option]) -> list[Option]:
    """Those that think and are yet expected to be right less often than without thinking."""
    known = [option for option in ways if option.course.results is not None]
    still = [_mean(option) for option in known if option.course.think == "off"]
    return [
        option for option in known if still and option.course.think != "off" and _mean(option) < max(still)
    ]


def _option(course: Course, prompt: int, machine: Machine) -> Option:
    seconds = machine.seconds(prompt, course.path, course.tokens)
    each: dict[BudgetUnit, Figures | None] = {
        "tok": course.tokens + prompt,
        "s": seconds,
        "J": seconds * machine.watts if seconds is not None and machine.watts is not None else None,
        "FLOP": machine.flops(prompt, course.path, course.tokens),
    }
    return Option(course, each, {unit: _quantiles(costs, unit) for unit, costs in each.items()})


def _quantiles(values: Figures | None, unit: BudgetUnit) -> Spread:
    if values is None:
        return Spread(p50=None, p90=None, unit=unit)
    return Spread(p50=_quantile(values, 0.5), p90=_quantile(values, 0.9), unit=unit)


def _quantile(values: Figures, share: float) -> float:
    """What the next value exceeds with a probability of at most 1 - share, if it is one like these.

    The rank is that of split conformal prediction: Lei et al. 2018 (arXiv:1604.04173).
    """
    ordered = np.sort(values)
    return float(ordered[min(len(ordered), math.ceil((len(ordered) + 1) * share)) - 1])


def _row(option: Option, limits: Sequence[Limit], dead: bool, chosen: bool) -> PreviewRow:
    believed = option.accuracy()
    low, high = believed.interval if believed is not None else (None, None)
    return PreviewRow(
        method=option.course.method,
        think=option.course.think,
        accuracy=believed.mean if believed is not None else None,
        accuracy_low=low,
        accuracy_high=high,
        tokens=option.costs["tok"],
        seconds=option.costs["s"],
        joules=option.costs["J"],
        flops=option.costs["FLOP"],
        fits=option.fits(limits),
        dead=dead,
        chosen=chosen,
    )


def _mean(option: Option, limits: Sequence[Limit] = ()) -> float:
    believed = option.accuracy(limits)
    return believed.mean if believed is not None else 0.0


def named(method: str, think: Think) -> str:
    """A way to answer in a word or two: `cot 64`."""
    return method if think in ("off", "max") else f"{method} {think}"


def _thought(think: Think) -> float:
    return 0.0 if think == "off" else math.inf if think == "max" else float(think)


def _notes(known: Known, machine: Machine) -> list[str]:
    notes = []
    if known.basis == "guess":
        notes.append("tokens are guessed: `mull bench --calibrate` measures this model")
    if not machine.measured:
        notes.append("seconds are guessed: `mull calibrate` measures this device")
    return notes
