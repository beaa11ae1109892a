"""A report as a person reads it: a table that fits 80 columns, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator

from app import figures
from engine.protocol import Quantity
from engine.protocol.bench import BenchEnough, BenchReport

LONGEST_MODEL, SHORTEST_MODEL = 32, 14
WIDE = 100
"""Columns from which on long names of models have room."""
FRONT = "◆"


def heading(report: BenchReport) -> str:
    """What was measured: `tiny: 120 problems of bundled (test split), seed 0`."""
    models = ", ".join(_short(model.model) for model in report.models)
    seeds = "seed" if len(report.seeds) == 1 else "seeds"
    samples = f", {report.samples} samples of each" if report.samples > 1 else ""
    return (
        f"{models}: {figures.count(report.problems)} problems of {report.tasks} ({report.split} split)"
        f"{samples}, {seeds} {', '.join(map(str, report.seeds))}"
    )


def columns(report: BenchReport, width: int = 80) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows; models, methods and numbers of problems only where they are not the same throughout.

    A mark stands in the heading where it is that of all cells below it.
    """
    cells = report.cells
    table: dict[str, list[str]] = {}
    if len({row.model for row in cells}) > 1:
        table["model"] = [
            _short(row.model, LONGEST_MODEL if width >= WIDE else SHORTEST_MODEL) for row in cells
        ]
    if (
        len({(row.model, row.budget) for row in cells}) < len(cells)
        or len({row.method for row in cells}) == 1
    ):
        table["method"] = [row.method for row in cells]
    table["think"] = [row.budget for row in cells]
    if len({row.n for row in cells}) > 1:
        table["n"] = [figures.count(row.n) for row in cells]
    table["solved"] = [f"{100 * row.accuracy:.1f} %" for row in cells]
    table["95 %"] = [f"{100 * row.accuracy_low:.0f}–{100 * row.accuracy_high:.0f}" for row in cells]
    if report.samples > 1:
        table["any"] = [f"{100 * (row.any_right or 0):.0f} %" for row in cells]
    for name, quantities in (
        ("tokens", [row.tokens for row in cells]),
        ("time", [row.seconds for row in cells]),
        ("compute", [row.flops for row in cells]),
        ("energy", [row.joules for row in cells]),
    ):
        plain = [_amount(figure) for figure in quantities]
        marks = [figures.MARKS[figure.method] for figure in quantities]
        if len(set(marks)) == 1:
            table[f"{name} {marks[0]}".rstrip()] = plain
        else:
            table[name] = [f"{text} {mark}" for text, mark in zip(plain, marks, strict=True)]
    table[""] = [FRONT if row.front else "" for row in cells]
    return tuple(table), list(zip(*table.values(), strict=True))


def remarks(report: BenchReport) -> Iterator[str]:
    """What the marks mean, where thinking is enough, and what else a reader should know."""
    cost = {"flops": "FLOPs", "tokens": "tokens", "seconds": "seconds", "joules": "joules"}[report.against]
    yield figures.LEGEND
    yield f"{FRONT} nothing else here costs as few {cost} and solves as much"
    for found in report.enough:
        yield enough(found, several=len(report.models) > 1)
    for note in report.notes:
        yield f"note: {note}"


def enough(found: BenchEnough, *, several: bool) -> str:
    """Where thinking stops paying, in a sentence."""
    who = f"{_short(found.model)}, {found.method}" if several else found.method
    if found.p is None or found.threshold is None:
        return f"{who}: thinking pays up to {found.budget}, the most that was tried"
    where = "does not pay here" if found.budget == "off" else f"pays up to {found.budget} tokens"
    sign = ">" if found.p > found.threshold else "≤"
    return (
        f"{who}: thinking {where}; {found.most} gains {100 * found.gain:+.1f} points, "
        f"p = {found.p:.2g} {sign} {found.threshold:.2g}"
    )


def _amount(figure: Quantity) -> str:
    """Without a mark; a number without a unit is one of tokens."""
    if figure.unit == "1" and figure.value is not None:
        return f"{figure.value:,.1f}"
    return figures.quantity(figure, mark=False)


def _short(model: str, longest: int = LONGEST_MODEL) -> str:
    """A name that fits: without its owner, and then without its middle."""
    if len(model) > longest:
        model = model.rpartition("/")[2]
    return model if len(model) <= longest else f"{model[: longest - 5]}…{model[-4:]}"
