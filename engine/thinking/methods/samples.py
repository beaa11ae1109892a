"""What the methods of several candidates share: sample them side by side, and tell how they stand."""

from __future__ import annotations

import asyncio

from engine.protocol import Vote, Voted
from engine.thinking.context import Context


async def sampled(ctx: Context, count: int) -> list[Context]:
    """So many candidates more, or as many as the budget pays for, each with its reply; of the first ones at
    least one. Raises what one of them raised, when all have ended.
    """
    begun = await ctx.branch(max(ctx.affords(count), 1))
    ended = await asyncio.gather(*(one.reply() for one in begun), return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome
    return begun


def tell(ctx: Context, votes: tuple[Vote, ...]) -> None:
    """How the candidates stand that have answered by now."""
    ctx.emit(Voted(votes=votes, ended=sum(one.done for one in ctx.branches), wanted=ctx.number))


def by_id(ctx: Context, candidate: str) -> Context:
    return next(one for one in ctx.branches if one.candidate == candidate)
