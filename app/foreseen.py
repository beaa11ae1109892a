"""A preview's rows as people read them: on the command line and in the app."""

from __future__ import annotations

from app import figures
from engine.protocol.preview import Preview, PreviewRow, Spread

HEADINGS = ("", "method", "right", "95 %", "tokens", "time", "energy", "compute")
CHOSEN, TOO_MUCH, DEAD = "▶", "✗", "▽"
LEGEND = f"{CHOSEN} auto's choice  {TOO_MUCH} over the budget  {DEAD} worse than not to think"
SHARES = "half of the answers cost no more than the first figure, nine of ten no more than the second"
BASES = {
    "measured": "measured here by mull bench --calibrate",
    "shipped": "measured by whoever made the model",
    "guess": "guessed",
}


def cells(row: PreviewRow) -> tuple[str, ...]:
    """A row of the table."""
    mark = CHOSEN if row.chosen else "" if row.fits else TOO_MUCH
    return (
        mark or (DEAD if row.dead else ""),
        named(row),
        *right(row),
        *(spread(cost) for cost in (row.tokens, row.seconds, row.joules, row.flops)),
    )


def named(row: PreviewRow) -> str:
    """A way to answer in a word or two: `cot 64`."""
    return row.method if row.think in ("off", "max") else f"{row.method} {row.think}"


def right(row: PreviewRow) -> tuple[str, str]:
    """How often it is expected to be right, and the interval: `81 %` and `66–92`."""
    if row.accuracy is None or row.accuracy_low is None or row.accuracy_high is None:
        return figures.UNKNOWN, ""
    return f"{100 * row.accuracy:.0f} %", f"{100 * row.accuracy_low:.0f}–{100 * row.accuracy_high:.0f}"


def spread(cost: Spread) -> str:
    """Median and 90th percentile: `44–70`, `0.3–2.7 J`."""
    if cost.p50 is None or cost.p90 is None:
        return figures.UNKNOWN
    if cost.unit == "tok":
        return f"{figures.count(round(cost.p50))}–{figures.count(round(cost.p90))}"
    low, high = (figures.amount(value, cost.unit) for value in (cost.p50, cost.p90))
    number, _, unit = low.partition(" ")
    return f"{number if unit and high.endswith(f' {unit}') else low}–{high}"


def sources(found: Preview) -> str:
    """Where the figures are from, in one line."""
    like = f", the {found.like} questions most like it" if found.like else ""
    speed = "measured here" if found.device == "measured" else "guessed"
    return f"answers: {BASES[found.answers]}{like}; speed: {speed}"
