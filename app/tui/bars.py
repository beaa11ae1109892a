"""Bars drawn with characters that stay apart without color. Pure text."""

from __future__ import annotations

from textual.content import Content

_SHADES = "█▓▒░"


def progress(fraction: float, width: int) -> Content:
    """How far something has come: heavy for done, light for left."""
    done = round(max(0.0, min(1.0, fraction)) * width)
    if fraction > 0:
        done = max(done, 1)
    return Content.assemble(("━" * done, "$mull-effort"), ("─" * (width - done), "$mull-rule"))


def stacked(parts: list[tuple[float, str]], total: float, width: int) -> Content:
    """Shares of a whole side by side: pairs of value and color; what is left of the total stays empty.

    A part that is there is seen: it gets a cell at least while there is room.
    """
    cells: list[tuple[str, str]] = []
    left = width
    for index, (value, color) in enumerate(parts):
        if value <= 0 or total <= 0 or left <= 0:
            continue
        size = min(left, max(1, round(value / total * width)))
        cells.append((_SHADES[index % 3] * size, color))
        left -= size
    cells.append(("·" * left, "$mull-rule"))
    return Content.assemble(*cells)


def dots(level: int, levels: int) -> Content:
    """A dial's position: `●●●○○`."""
    return Content.assemble(("●" * level, "$mull-effort"), ("○" * (levels - level), "$mull-muted"))
