"""What is done to and heard of an answer while it runs: controls, the clock, the meter. Knows no method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import structs

from engine.backend import EVICTED, Lease
from engine.protocol import AnswerNow, Cancel, Control, Event, Metered, More, Notice
from engine.thinking.context import Context

METER_PERIOD_S = 0.1
CLOCK_PERIOD_S = 0.002


@dataclass
class Steering:
    """Takes controls to the leases of a running answer; a cancellation may come before it runs."""

    context: Context | None = None
    cancelled: bool = False
    hidden: Lease | None = None
    """Of the work before the answer."""

    def lend(self, tokens: int) -> Lease:
        """A lease for work before the answer, which a cancellation ends too."""
        self.hidden = Lease(tokens, cancelled=self.cancelled)
        return self.hidden

    def control(self, control: Control) -> None:
        if isinstance(control, Cancel):
            self.cancelled = True
            if self.hidden is not None:
                self.hidden.cancelled = True
        if self.context is None:
            return
        if isinstance(control, More) and control.tokens > 0:
            self.context.purse.more(control.tokens)
        for one in (self.context, *self.context.branches):
            if isinstance(control, Cancel):
                one.budget.lease.cancelled = one.answer_lease.cancelled = True
            elif isinstance(control, AnswerNow):
                one.budget.lease.ended = True
            else:
                one.budget.more(control.tokens)
                one.refit()


async def watch_clock(context: Context) -> None:
    """Hold all that runs to the time that is left, a few times in each step."""
    while True:
        step_s = context.purse.step_seconds() or 0.0
        await asyncio.sleep(min(max(step_s / 4, CLOCK_PERIOD_S), METER_PERIOD_S))
        for one in (context, *context.branches):
            one.refit()


def limit(context: Context) -> int:
    """Tokens that each candidate may think; by the clock it cannot be told."""
    return context.budget.bound if context.purse.counted else context.budget.limit


def metered(context: Context, final_tok_s: float | None = None) -> Metered:
    sample = context.tally.metered(limit(context), final_tok_s)
    return structs.replace(sample, budget=context.purse.now())


async def sample_meter(context: Context, emit: Callable[[Event], None]) -> None:
    """The live figures, and what gave way for want of memory, as it happens."""
    said = 0
    while True:
        await asyncio.sleep(METER_PERIOD_S)
        emit(metered(context))
        nodes = [one.node for one in (context, *context.branches) if one.node is not None]
        degradations = list(dict.fromkeys(event for node in nodes for event in node.account.degradations))
        for event in degradations[said:]:
            emit(Notice(code="cache" if event == EVICTED else "memory", text=event))
        said = len(degradations)
