"""A report as a person reads it: a table that fits 80 columns, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator

from app import figures
from engine.protocol import Quantity
from engine.protocol.bench import BenchEnough, BenchReport

LONGEST_MODEL = 24
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


def columns(report: BenchReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows; of models and methods only where there are several."""
    models = len({row.model for row in report.cells}) > 1
    counts = len({row.n for row in report.cells}) > 1
    several = report.samples > 1
    headings = (
        *(("model",) if models else ()),
        "method",
        "think",
        *(("n",) if counts else ()),
        "solved",
        "95 %",
        *(("any",) if several else ()),
        "tokens",
        "time",
        "compute",
        "energy",
        "",
    )
    rows = [
        (
            *((_short(row.model),) if models else ()),
            row.method,
            row.budget,
            *((figures.count(row.n),) if counts else ()),
            f"{100 * row.accuracy:.1f} %",
            f"{100 * row.accuracy_low:.0f}–{100 * row.accuracy_high:.0f}",
            *((f"{100 * (row.any_right or 0):.0f} %",) if several else ()),
            tokens(row.tokens),
            figures.quantity(row.seconds),
            figures.quantity(row.flops),
            figures.quantity(row.joules),
            FRONT if row.front else "",
        )
        for row in report.cells
    ]
    return headings, rows


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


def tokens(figure: Quantity) -> str:
    """A mean number of tokens with its mark."""
    if figure.value is None:
        return figures.UNKNOWN
    return f"{figure.value:,.1f} {figures.MARKS[figure.method]}"


def _short(model: str) -> str:
    return model if len(model) <= LONGEST_MODEL else f"{model[: LONGEST_MODEL - 1]}…"
