"""What the methods of several candidates share: sample them side by side, and tell how they stand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from engine.protocol import Vote, Voted
from engine.tasks.answer_types import Answers, compare
from engine.thinking.context import Context, together
from engine.thinking.verifiers import judged
from engine.thinking.voting import count


async def sampled(ctx: Context, count: int) -> list[Context]:
    """So many candidates more, or as many as the budget pays for, each with its reply; of the first ones at
    least one. Raises what one of them raised, when all have ended.
    """
    begun = await ctx.branch(max(ctx.affords(count), 1))
    await together(one.reply() for one in begun)
    return begun


def tell(ctx: Context, votes: tuple[Vote, ...]) -> None:
    """How the candidates stand that have answered by now."""
    ctx.emit(Voted(votes=votes, ended=sum(one.done for one in ctx.branches), wanted=ctx.number))


async def compared(ctx: Context, candidates: Sequence[Context]) -> Answers:
    """What candidates answer, by the type that was asked for or that they have. Algebra may take seconds."""
    replies = [one.answer for one in candidates]
    return await asyncio.to_thread(compare, replies, ctx.answer_type, ctx.messages[-1].content)


def weighed(candidates: Sequence[Context], labels: Sequence[str]) -> tuple[Vote, ...]:
    """Their votes, each of the weight of its score; who has none has no say."""
    entries = [(one.candidate, one.answer, one.score or 0.0) for one in candidates]
    said = [label if one.score is not None else "" for one, label in zip(candidates, labels, strict=True)]
    return count(entries, said)


async def chosen_by(
    ctx: Context, candidates: Sequence[Context], answers: Answers
) -> tuple[tuple[Vote, ...], str]:
    """Have the verifier weigh the votes: these, and its rule. Candidates have its weights as scores."""
    judgement = await judged(ctx, candidates, answers.labels, answers.kind)
    for one in candidates:
        one.score = judgement.weights.get(one.candidate)
    return weighed(candidates, answers.labels), judgement.rule


def leader(ctx: Context, votes: tuple[Vote, ...]) -> Context:
    """Of the candidates with the heaviest answer the one with the highest score, the earliest of equals."""
    return max((by_id(ctx, name) for name in votes[0].candidates), key=lambda one: one.score or 0.0)


def by_id(ctx: Context, candidate: str) -> Context:
    return next(one for one in ctx.branches if one.candidate == candidate)
