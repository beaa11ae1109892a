"""A chart in characters: lines in braille dots, four by two to a character, markers and labels on top."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from app.bench.chart import Chart, Point

MARKERS = "●▲■◆○△□◇"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Unicode's braille dots by row and column of a character."""
HEIGHT = 16
NARROWEST, WIDEST = 40, 100


class Canvas:
    """Characters of dots, and texts that lie over them."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._dots = [[0] * width for _ in range(height)]
        self._texts: dict[tuple[int, int], str] = {}

    def line(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """A line between two places, each in 0..1 from the left and from below."""
        columns, rows = 2 * self.width - 1, 4 * self.height - 1
        x0, y0, x1, y1 = begin[0] * columns, begin[1] * rows, end[0] * columns, end[1] * rows
        steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for step in range(steps + 1):
            share = step / steps
            x, y = round(x0 + share * (x1 - x0)), rows - round(y0 + share * (y1 - y0))
            self._dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]

    def cell(self, place: tuple[float, float]) -> tuple[int, int]:
        """Row and column of the character at a place."""
        x, y = round(place[0] * (2 * self.width - 1)), round((1 - place[1]) * (4 * self.height - 1))
        return y // 4, x // 2

    def text(self, row: int, column: int, text: str) -> bool:
        """Put a text there; False where it leaves the canvas or lies on another."""
        cells = [(row, column + at) for at in range(len(text))]
        if not all(0 <= y < self.height and 0 <= x < self.width for y, x in cells):
            return False
        if any(cell in self._texts for cell in cells):
            return False
        self._texts.update(zip(cells, text, strict=True))
        return True

    def rows(self) -> list[str]:
        return [
            "".join(
                self._texts.get((y, x)) or (chr(0x2800 + dots) if dots else " ") for x, dots in enumerate(row)
            )
            for y, row in enumerate(self._dots)
        ]


def draw(chart: Chart, width: int) -> list[str]:
    """The chart's lines, at most so many columns wide."""
    width = min(max(width, NARROWEST), WIDEST)
    margin = max(len(text) for _, text in chart.up.marks) + 1
    canvas = Canvas(width - margin - 1, HEIGHT)
    places = [[_place(chart, point) for point in series.points] for series in chart.series]
    for series_places in places:
        for begin, end in pairwise(series_places):
            canvas.line(begin, end)
    for number, series_places in enumerate(places):
        for place in series_places:
            canvas.text(*canvas.cell(place), _marker(number))
    for series, points in zip(chart.series, places, strict=True):
        for point, place in zip(series.points, points, strict=True):
            _label(canvas, canvas.cell(place), point.label)
    marks = {canvas.cell((0, chart.up.place(value)))[0]: text for value, text in chart.up.marks}
    lines = ["solved"]
    for number, row in enumerate(canvas.rows()):
        mark = marks.get(number, "")
        lines.append(f"{mark:>{margin - 1}} {'┤' if mark else '│'}{row}".rstrip())
    lines.append(f"{'':{margin}}└{_ticks(chart, canvas)}")
    lines.append(_tick_texts(chart, canvas, margin + 1, width))
    lines.append(f"{chart.cost:>{width}}")
    if len(chart.series) > 1:
        lines.append("   ".join(f"{_marker(n)} {series.name}" for n, series in enumerate(chart.series)))
    return lines


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _place(chart: Chart, point: Point) -> tuple[float, float]:
    return chart.across.place(point.cost), chart.up.place(point.accuracy)


def _label(canvas: Canvas, cell: tuple[int, int], text: str) -> None:
    """A label beside its marker, where there is room: below to the right, above, or beside."""
    row, column = cell
    for down, right in ((1, 1), (0, 2), (-1, -len(text)), (1, -len(text) // 2), (-1, 1), (0, -len(text) - 1)):
        if canvas.text(row + down, column + right, text):
            return


def _ticks(chart: Chart, canvas: Canvas) -> str:
    line = ["─"] * canvas.width
    for value, _ in chart.across.marks:
        line[canvas.cell((chart.across.place(value), 0))[1]] = "┬"
    return "".join(line)


def _tick_texts(chart: Chart, canvas: Canvas, margin: int, width: int) -> str:
    """The marks' texts under their ticks; one that would touch the one before is left out."""
    line = [" "] * width
    free = 0
    marks: Sequence[tuple[float, str]] = chart.across.marks
    for value, text in marks:
        middle = margin + canvas.cell((chart.across.place(value), 0))[1]
        begin = min(max(0, middle - len(text) // 2), width - len(text))
        if begin >= free:
            line[begin : begin + len(text)] = text
            free = begin + len(text) + 2
    return "".join(line).rstrip()
