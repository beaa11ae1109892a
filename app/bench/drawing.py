"""A chart as shapes on a page, for what writes pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from app.bench.chart import Chart, Point

WIDTH, HEIGHT = 880, 540
LEFT, RIGHT, TOP, BOTTOM = 78, 30, 64, 66
INK, FAINT, GRID = "#222222", "#666666", "#e4e4e4"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6bb1")
"""Okabe and Ito's, which most people who see colors otherwise can tell apart."""
FRONT = "#b8b8b8"
SIZE = 14


@dataclass(frozen=True)
class Line:
    """A line through points, in pixels from the upper left."""

    points: tuple[tuple[float, float], ...]
    color: str
    width: float = 1.0


@dataclass(frozen=True)
class Dot:
    """A filled circle."""

    at: tuple[float, float]
    radius: float
    color: str


@dataclass(frozen=True)
class Words:
    """A text on one line; `at` is its baseline's beginning, middle or end."""

    at: tuple[float, float]
    text: str
    color: str = INK
    size: int = SIZE
    anchor: Literal["start", "middle", "end"] = "start"


Shape = Line | Dot | Words


def shapes(chart: Chart) -> Iterator[Shape]:
    """What is drawn, what is in front last."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(point: Point, accuracy: float | None = None) -> tuple[float, float]:
        share = chart.up.place(point.accuracy if accuracy is None else accuracy)
        return LEFT + chart.across.place(point.cost) * (right - LEFT), bottom - share * (bottom - TOP)

    yield Words((LEFT, 32), chart.title, size=17)
    for value, text in chart.up.marks:
        y = bottom - chart.up.place(value) * (bottom - TOP)
        yield Line(((LEFT, y), (right, y)), GRID)
        yield Words((LEFT - 10, y + 5), text, FAINT, anchor="end")
    for value, text in chart.across.marks:
        x = LEFT + chart.across.place(value) * (right - LEFT)
        yield Line(((x, bottom), (x, bottom + 6)), FAINT)
        yield Words((x, bottom + 24), text, FAINT, anchor="middle")
    yield Line(((LEFT, bottom), (right, bottom)), FAINT)
    yield Words((right, HEIGHT - 14), f"{chart.cost}, logarithmic", FAINT, anchor="end")
    yield Words((LEFT, HEIGHT - 14), "bars: 95 % interval; grey: the front", FAINT)
    front = chart.front
    if len(front) > 1:
        yield Line(tuple(_stairs([place(point) for point in front])), FRONT, 5)
    for number, series in enumerate(chart.series):
        color = COLORS[number % len(COLORS)]
        yield Line(tuple(place(point) for point in series.points), color, 2)
        for point in series.points:
            low, high = place(point, point.low), place(point, point.high)
            yield Line((low, high), color, 1)
            for x, y in (low, high):
                yield Line(((x - 4, y), (x + 4, y)), color, 1)
            yield Dot(place(point), 5, color)
            x, y = place(point)
            yield Words((x + 9, y + 17), point.label, INK, 13)
        yield Dot((LEFT + 12, TOP + 10 + 20 * number), 5, color)
        yield Words((LEFT + 24, TOP + 15 + 20 * number), series.name, INK)


def _stairs(places: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """From each place on at its height until the next: that much is solved for that cost."""
    yield places[0]
    for (_, height), place in pairwise(places):
        yield place[0], height
        yield place
