"""Accuracy against cost as a chart: series of points and axes, whatever draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app import figures
from app.bench.report import COSTS
from engine.protocol.bench import BenchReport, BenchRow

COST_NAMES = {
    "flops": "FLOPs per answer",
    "tokens": "tokens per answer",
    "seconds": "seconds per answer",
    "joules": "joules per answer",
}
_UNITS = {"flops": "FLOP", "tokens": "", "seconds": "s", "joules": "J"}


@dataclass(frozen=True)
class Point:
    """A model with a budget: its cost, the share that it solves with the interval, its budget as a label."""

    cost: float
    accuracy: float
    low: float
    high: float
    label: str
    front: bool


@dataclass(frozen=True)
class Series:
    """One model with one method, from no thinking on."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Axis:
    """A span with marks in it, each with its text; `log` where equal distances are equal ratios."""

    low: float
    high: float
    marks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Chart:
    """All that is to be drawn."""

    title: str
    cost: str
    across: Axis
    up: Axis
    series: tuple[Series, ...]

    @property
    def front(self) -> list[Point]:
        """The points that nothing else beats, the cheapest first."""
        return sorted(
            {point for series in self.series for point in series.points if point.front},
            key=lambda point: point.cost,
        )


def chart(report: BenchReport) -> Chart | None:
    """The report's cells against the cost that it names; None where fewer than two have a figure for it."""
    series = tuple(_series(report))
    points = [point for one in series for point in one.points]
    if len(points) < 2:
        return None
    accuracies = [value for point in points for value in (point.low, point.high)]
    where = f"{report.tasks}, {report.problems:,} problems"
    return Chart(
        title=f"Solved against {COST_NAMES[report.against]}: {where}",
        cost=COST_NAMES[report.against],
        across=_across([point.cost for point in points], _UNITS[report.against]),
        up=_up(min(accuracies), max(accuracies)),
        series=series,
    )


def _series(report: BenchReport) -> Iterator[Series]:
    cost = COSTS[report.against]
    known = [row for row in report.cells if (cost(row).value or 0) > 0]
    thinking = list(dict.fromkeys((row.model, row.method) for row in known if row.budget != "off"))
    groups: dict[tuple[str, str], list[BenchRow]] = {}
    for row in known:
        # without thinking is where each of a model's methods begins that has no such row of its own
        own = (row.model, row.method)
        others = [key for key in thinking if key[0] == row.model and own not in thinking]
        for key in others or [own]:
            groups.setdefault(key, []).append(row)
    models = {model for model, _ in groups}
    methods = {method for _, method in groups}
    for (model, method), rows in groups.items():
        names = ((model,) if len(models) > 1 or len(methods) == 1 else ()) + (
            (method,) if len(methods) > 1 else ()
        )
        points = [
            Point(
                float(cost(row).value or 0),
                row.accuracy,
                row.accuracy_low,
                row.accuracy_high,
                row.budget,
                row.front,
            )
            for row in rows
        ]
        yield Series(", ".join(names), tuple(sorted(points, key=lambda point: point.cost)))


def _across(costs: Sequence[float], unit: str) -> Axis:
    """A logarithmic axis with a tenth of room at both ends, and a few round marks."""
    low, high = min(costs), max(costs)
    room = (high / low) ** 0.1 if high > low else 2.0
    low, high = low / room, high * room
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks: list[float] = []
    for tenths in ((10,), (10, 20, 50), range(10, 100, 10), range(10, 100)):
        marks = [tenth * 10.0 ** (power - 1) for power in powers for tenth in tenths]
        marks = [mark for mark in marks if low <= mark <= high]
        if len(marks) > 2:
            break
    return Axis(low, high, tuple((mark, _amount(mark, unit)) for mark in marks), log=True)


def _amount(value: float, unit: str) -> str:
    return figures.amount(value, unit) if unit else f"{value:,.10g}"


def _up(low: float, high: float) -> Axis:
    """Per cent, from a multiple of ten below to one above."""
    first, last = math.floor(10 * low), math.ceil(10 * high)
    last = max(last, first + 2)
    step = 1 if last - first <= 5 else 2
    marks = tuple((tenth / 10, f"{10 * tenth} %") for tenth in range(first, last + 1, step))
    return Axis(first / 10, last / 10, marks)
