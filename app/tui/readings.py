"""What the meter shows, from one sample of it. Pure values; without a sample everything is `n/a`."""

from __future__ import annotations

from typing import NamedTuple

from app import figures
from engine.protocol import BudgetUnit, Metered


class MemoryShare(NamedTuple):
    """Memory by kind, in bytes. `total` is the whole that the shares are part of."""

    name: str
    weights: int
    kv: int
    other: int | None
    """None where the weights are mapped from disk and only partly in the process's memory."""
    used: int
    total: int | None
    """The device's memory; None for a process, which has no end of its own."""


def memory(sample: Metered) -> MemoryShare:
    """The accelerator's memory where there is one, else this process's."""
    if sample.device_used_bytes is not None:
        name, used, total = "device memory", sample.device_used_bytes, sample.device_total_bytes
    else:
        name, used, total = "engine memory", sample.process_bytes, None
    other = used - sample.weights_bytes - sample.kv_used_bytes
    return MemoryShare(
        name, sample.weights_bytes, sample.kv_used_bytes, other if other >= 0 else None, used, total
    )


def speed(sample: Metered | None) -> str:
    """Tokens a second of decoding over the last second."""
    return _rate(sample.decode_tok_s if sample is not None else None)


def prefill_speed(sample: Metered | None) -> str:
    """Tokens a second while the prompt was read."""
    return _rate(sample.prefill_tok_s if sample is not None else None)


def _rate(value: float | None) -> str:
    return figures.UNKNOWN if value is None else figures.rate(value)


def guesses(sample: Metered | None) -> str:
    """Of the tokens that were guessed ahead, how many were right; nothing where none were."""
    guessed = 0 if sample is None else sample.drafts_accepted + sample.drafts_rejected
    if sample is None or not guessed:
        return ""
    return f"{figures.count(sample.drafts_accepted)} of {figures.count(guessed)}"


def context(sample: Metered | None) -> str:
    """Tokens used of those that fit."""
    if sample is None:
        return figures.UNKNOWN
    return f"{figures.count(sample.context_used)} / {figures.count(sample.context_limit)}"


def context_left(sample: Metered | None) -> str:
    """Tokens that still fit."""
    if sample is None:
        return figures.UNKNOWN
    return figures.count(max(0, sample.context_limit - sample.context_used))


def budgets(sample: Metered | None) -> tuple[tuple[str, str, float], ...]:
    """Of each limit: its name, what is spent of it in words, and as a share."""
    if sample is None:
        return ()
    return tuple(
        (
            LIMITED[state.limit.unit],
            figures.budgeted(state),
            min(1.0, (state.spent.value or 0) / state.limit.amount),
        )
        for state in sample.budget
    )


LIMITED: dict[BudgetUnit, str] = {"tok": "tokens", "s": "time", "J": "energy", "FLOP": "compute"}


NEARLY_FULL = 0.8
"""The share of the context from which the meter warns."""


def context_warning(sample: Metered | None) -> str:
    """`context 83 % full` where little of it is left, else nothing."""
    if sample is None or sample.context_used < NEARLY_FULL * sample.context_limit:
        return ""
    return f"context {100 * sample.context_used // sample.context_limit} % full"


def flops(value: int | None) -> str:
    """Computed from counted tokens by an exact formula, so marked as derived."""
    return figures.UNKNOWN if value is None else f"{figures.amount(value, 'FLOP')} {figures.MARKS['derived']}"


def next_token(sample: Metered | None) -> tuple[str, str, str]:
    """What one more token costs here: arithmetic, bytes moved, the least time that the hardware allows."""
    if sample is None:
        return figures.UNKNOWN, figures.UNKNOWN, figures.UNKNOWN
    roofline = sample.next_token_roofline_s
    return (
        flops(sample.next_token_flops),
        f"{figures.size(sample.next_token_bytes)} {figures.MARKS['derived']}",
        figures.UNKNOWN if roofline is None else f"≥ {1000 * roofline:.2g} ms {figures.MARKS['modelled']}",
    )
