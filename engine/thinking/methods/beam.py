"""beam:N: N thoughts grow step by step; the soundest go on, each in several ways, and their answers vote.

Each round samples N steps; of those that differ the best N/4 are kept and gone on from. Thoughts that end
leave the beam, and answer. Sources: Snell et al. 2024 (arXiv:2408.03314), section 5.1; the defaults are those
of Beeching et al., "Scaling test-time compute with open models", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.thinking.context import Context
from engine.thinking.methods.samples import by_id, tell
from engine.thinking.step_scorer import is_sound
from engine.thinking.tree import Family, advance, answer, drop, grow, times
from engine.thinking.voting import count, decision

WIDTH = 4
"""Steps that are tried after each one that is kept."""
STEPS = 40
"""After so many, what is kept thinks on to its end without being compared."""


async def run(ctx: Context) -> None:
    """Grow thoughts, answer those that end, and keep the best of those with the weightiest answer."""
    await ctx.prefill()
    if ctx.format is None or not ctx.budget.thinks:
        await ctx.reply()
        return
    ctx.watch = True
    ends = ctx.format.step_ends(ctx.backend.tokenizer)
    beam = Beam(1 if ctx.hurried else max(1, ctx.affords(ctx.number)))
    for taken in range(STEPS):
        wanted = beam.wanted(ctx)
        if not wanted or (taken and _has_to_end(ctx)):
            break
        await beam.take(ctx, await advance(ctx, await grow(ctx, wanted), ends))
    left = [step for step in beam.open if step is not None]
    if left and _has_to_end(ctx):
        left = [] if beam.ended else left[:1]
    await answer(ctx, [*beam.ended, *left])
    _choose(ctx, [*beam.ended, *left])


@dataclass
class Beam:
    """`width` thoughts: those to go on from, the best first (None: from the prompt), and those that ended."""

    width: int
    open: list[Context | None] = field(default_factory=lambda: [None])
    ended: Family = field(default_factory=list)

    def room(self, ctx: Context) -> int:
        """How many thoughts may still end. Those with a wrong step take nobody's place."""
        return max(0, self.width - sum(times(ctx, one) for one in self.ended if is_sound(one.thinking)))

    def wanted(self, ctx: Context) -> list[tuple[Context | None, int]]:
        """From where to go on, in how many ways."""
        each, more = divmod(self.room(ctx), max(1, len(self.open)))
        return [(step, each + (at < more)) for at, step in enumerate(self.open) if each + (at < more)]

    async def take(self, ctx: Context, families: list[Family]) -> None:
        """What a round came to; the best are gone on with, those with a wrong step for want of others."""
        steps = [step for family in families for step in family]
        self.ended += [step for step in steps if not step.opened]
        room = self.room(ctx)
        best = sorted((step for step in steps if step.opened), key=lambda step: -(step.score or 0.0))
        sound = [step for step in best if is_sound(step.thinking)]
        keep = -(-room // WIDTH)
        self.open = [*(sound if sound or room < self.width else best)[:keep]]
        for step in best:
            if not any(step is one for one in self.open):
                await drop(ctx, step)


def _has_to_end(ctx: Context) -> bool:
    return ctx.hurried or not ctx.affords(1)


def _choose(ctx: Context, answered: Family) -> None:
    votes = count([(one.candidate, one.answer, (one.score or 0.0) * times(ctx, one)) for one in answered])
    tell(ctx, votes)
    if votes:
        best = max((by_id(ctx, name) for name in votes[0].candidates), key=lambda one: one.score or 0.0)
        ctx.keep(best, decision(f"scores of the {len(answered)} thoughts that came to their end", votes))
