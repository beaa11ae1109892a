"""Figures as people read them: rounded, with SI prefixes, and with the mark of how each was obtained.

Unknown is `n/a`, never 0. The one wording for receipts in the transcript, in exports and on the command line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from engine.protocol import Answer, Budgeted, Quantity, Receipt, Settling, Summary, TokenCounts, Voted

MARKS = {"measured": "●", "derived": "◐", "apportioned": "◐", "modelled": "○", "unavailable": ""}
LEGEND = "● measured  ◐ derived or apportioned  ○ modelled  n/a unknown"
UNKNOWN = "n/a"
FINISHES = {
    "stop": "",
    "budget": "cut by the budget",
    "length": "cut at the token limit",
    "cancelled": "stopped",
    "error": "failed",
}
"""What the receipt line says of an answer that did not end by itself, or did not think to its end."""

DROPPED, SUMMARIZED = "left out", "summarized"
"""What became of turns that the context had no room for."""

_LARGE = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
_SMALL = ("", "m", "µ", "n", "p")


def quantity(figure: Quantity, *, mark: bool = True) -> str:
    """A figure with its unit, and its mark unless told otherwise: `23 TFLOP ◐`."""
    if figure.value is None:
        return UNKNOWN
    text = amount(figure.value, figure.unit)
    return f"{text} {MARKS[figure.method]}" if mark else text


def amount(value: float, unit: str) -> str:
    """A number of this unit (SI base units, as in a Quantity) with a prefix that keeps it short."""
    match unit:
        case "s":
            return seconds(value)
        case "B":
            return size(value)
        case "tok/s":
            return rate(value)
        case "tok":
            return f"{count(round(value))} tok"
        case "1":
            return f"{100 * value:.1f} %"
        case "money":
            return f"{value:.4f}"
        case _:
            return _prefixed(value, unit)


def rate(tokens_per_second: float) -> str:
    """A speed: `86.6 t/s`."""
    return f"{_short(tokens_per_second)} t/s"


def count(tokens: int) -> str:
    """A whole number with its thousands apart: `1,240`."""
    return f"{tokens:,}"


def size(count_bytes: float) -> str:
    """Bytes in binary units: `8.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count_bytes) < (1000 if unit == "B" else 999.5):
            break
        if unit != "TiB":
            count_bytes /= 1024
    return f"{count_bytes:.0f} B" if unit == "B" else f"{_short(count_bytes)} {unit}"


def seconds(value: float) -> str:
    """A duration: `45ms`, `0.3s`, `17.9s`, `2m05s`, `1h02m`."""
    if 0 < value < 0.0995:
        return f"{1000 * value:.0f}ms" if value >= 0.0095 else f"{1000 * value:.1f}ms"
    if value < 99.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _short(value: float) -> str:
    if value != 0 and abs(value) < 0.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}"


def _prefixed(value: float, unit: str) -> str:
    """One decimal below ten, none above: `4.1 kJ`, `23 TFLOP`, `350 mJ`."""
    if value == 0:
        return f"0 {unit}"
    step = math.floor(math.log10(abs(value)) / 3)
    if abs(value) / 1000.0**step >= 999.5:
        step += 1
    step = min(max(step, 1 - len(_SMALL)), len(_LARGE) - 1)
    scaled = value / 1000.0**step
    prefix = _LARGE[step] if step >= 0 else _SMALL[-step]
    digits = 0 if abs(scaled) >= 9.95 or (step == 0 and float(value).is_integer()) else 1
    return f"{scaled:.{digits}f} {prefix}{unit}"


def receipt_line(answer: Answer, place: tuple[int, int] | None = None) -> str:
    """An answer's cost in one line; `place` is its number among its siblings and how many there are.

    `2/3 ◂▸ · think 1,240 + ans 310 tok · 17.9s · ttft 0.3s · 86.6 t/s · 23 TFLOP ◐ · 4.1 kJ ●`
    """
    receipt = answer.receipt
    tokens = receipt.tokens
    thought = f"think {count(tokens.thinking)} + " if tokens.thinking else ""
    others = f" + {count(tokens.discarded)} not kept" if tokens.discarded else ""
    energy = receipt.energy.total
    left_out = receipt.state.turns_left_out
    parts = [
        f"{place[0]}/{place[1]} ◂▸" if place and place[1] > 1 else "",
        decided(answer),
        f"{thought}ans {count(tokens.answer)}{others} tok",
        _cached(tokens),
        _plain(receipt.time.total),
        f"ttft {_plain(receipt.time.first_token)}",
        _plain(receipt.speed.decode_tok_s),
        guesses(tokens.draft_accepted, tokens.draft_rejected),
        quantity(receipt.compute.flops.total),
        f"energy {UNKNOWN}" if energy.value is None else quantity(energy),
        *map(budgeted, receipt.budget),
        sureness(answer),
        f"{len(left_out)} turns {SUMMARIZED if answer.summary else DROPPED}" if left_out else "",
        FINISHES[answer.finish],
    ]
    return " · ".join(part for part in parts if part)


def budgeted(state: Budgeted) -> str:
    """What was spent of a limit: `412 tok of 500 tok`, `1.9s of 2.5s (raised)`."""
    spent = quantity(state.spent, mark=state.spent.method == "modelled")
    limit = amount(state.limit.amount, state.limit.unit)
    return f"{spent} of {limit}{' (raised)' if state.raised else ''}"


def sureness(answer: Answer) -> str:
    """How sure the model was of its tokens, the least sure passage last: `sure 12.4, at least 3.1`."""
    found = next((candidate.confidence for candidate in answer.candidates if candidate.kept), None)
    return f"sure {found.mean:.1f}, at least {found.lowest:.1f}" if found is not None else ""


def decided(answer: Answer) -> str:
    """How the answer was chosen among several, `vote:8: 4 of 5 (majority, clear after 5 of 8)`, or how it was
    found to be settled, `exit: settled after 41 tokens of thought`.
    """
    if answer.decision is None:
        return ""
    if len(answer.candidates) == 1:
        return f"{answer.method}: {answer.decision.rule}"
    first = answer.decision.votes[0]
    return f"{answer.method}: {len(first.candidates)} of {len(answer.candidates)} ({answer.decision.rule})"


def settled(settling: Settling) -> str:
    """Where an answer's thought settled, and what it took to find out:
    `settled at 412 of 1,240 tokens: the last 67 % changed nothing · probes 96 tok · 0.2s`.
    """
    thought, at = settling.thought, settling.settled
    if at is None:
        found = f"where the thought settled cannot be told: {settling.reason}"
    elif at == thought:
        found = f"not settled before the end of its {count(thought)} tokens of thought"
    elif at == 0:
        found = f"settled before it thought: all {count(thought)} tokens changed nothing"
    else:
        nothing = f"the last {1 - at / thought:.0%} changed nothing".replace("%", " %")
        found = f"settled at {count(at)} of {count(thought)} tokens: {nothing}"
    receipt = settling.receipt
    return f"{found} · probes {count(receipt.tokens.forwarded())} tok · {_plain(receipt.time.total)}"


def standing(voted: Voted) -> str:
    """How candidates stand that have answered: `5 of 8 answers, 4 of them 7422`."""
    leader = f", {len(voted.votes[0].candidates)} of them {voted.votes[0].answer[:40]}" if voted.votes else ""
    return f"{voted.ended} of {voted.wanted} answers{leader}"


def turns_left_out(names: Sequence[str], summary: Summary | None) -> str:
    """What an answer is not told: `left out, for the context is full: t1 to t6`."""
    how = SUMMARIZED if summary else DROPPED
    return f"{how}, for the context is full: {span(names)}"


def span(names: Sequence[str]) -> str:
    """Turns that follow one another: `t1`, `t1 and t2`, `t1 to t6`."""
    if len(names) < 3:
        return " and ".join(names)
    return f"{names[0]} to {names[-1]}"


def guesses(accepted: int, rejected: int) -> str:
    """How many of the tokens guessed ahead were right: `95 of 120 guesses right`; nothing without guesses."""
    guessed = accepted + rejected
    return f"{count(accepted)} of {count(guessed)} guesses right" if guessed else ""


def _cached(tokens: TokenCounts) -> str:
    """How much of the prompt came from the cache, and how much of that from disk."""
    if not tokens.cached:
        return ""
    source = f" ({count(tokens.restored)} from disk)" if tokens.restored else ""
    return f"{count(tokens.cached)} cached{source}"


def _plain(figure: Quantity) -> str:
    """What is measured everywhere needs no mark; anything else has one."""
    return quantity(figure, mark=figure.method != "measured")


class Figure(NamedTuple):
    """A row of a receipt's table."""

    label: str
    text: str
    mark: str
    source: str
    """How it was obtained, or why it is not known."""


def main_figures(receipt: Receipt) -> tuple[Figure, ...]:
    """The receipt's main quantities, in the order in which a person asks for them."""
    time, flops, energy = receipt.time, receipt.compute.flops, receipt.energy
    rows = {
        "total time": time.total,
        "model load": time.load,
        "first token": time.first_token,
        "prefill": time.prefill,
        "decode": time.decode,
        "between tokens, median": time.itl_p50,
        "between tokens, 95th percentile": time.itl_p95,
        "prefill speed": receipt.speed.prefill_tok_s,
        "decode speed": receipt.speed.decode_tok_s,
        "roofline": receipt.speed.roofline_tok_s,
        "bandwidth used (MBU)": receipt.speed.mbu,
        "compute used (MFU)": receipt.speed.mfu,
        "compute": flops.total,
        "compute, prefill": flops.prefill,
        "compute, thinking": flops.thinking,
        "compute, answer": flops.answer,
        "compute saved by the cache": receipt.compute.flops_saved_by_cache,
        **({"time saved by the cache": time.saved_by_cache} if receipt.tokens.cached else {}),
        "bytes moved": receipt.compute.bytes,
        "memory, weights": receipt.memory.weights,
        "memory, KV cache": receipt.memory.kv_used,
        "memory, peak": receipt.memory.peak,
        "energy": energy.total,
        "energy, thinking": energy.thinking,
        "energy, answer": energy.answer,
        **{f"of the budget of {amount(s.limit.amount, s.limit.unit)}": s.spent for s in receipt.budget},
    }
    return tuple(
        Figure(label, quantity(row, mark=False), MARKS[row.method], row.source or "; ".join(row.reasons))
        for label, row in rows.items()
    )
