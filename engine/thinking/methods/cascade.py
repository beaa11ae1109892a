"""cascade:N: answer at once; where that is not sure enough, think; where that is not either, have N vote.

The first two are greedy, and are accepted where the tokens of the answer are certain (the mean of their
largest probabilities, DEER's measure) and no line of the thought is wrong. What they answered votes with the
N. Sources: Chen et al., "FrugalGPT", 2023 (arXiv:2305.05176); the measure, arXiv:2504.15895.
"""

from __future__ import annotations

from dataclasses import replace

from engine.protocol import Vote
from engine.thinking.confidence import certainty
from engine.thinking.context import Context
from engine.thinking.methods.samples import compared, leader, sampled, tell, weighed
from engine.thinking.step_scorer import is_sound
from engine.thinking.voting import decision

SURE = 0.97
"""Certainty from which an answer is accepted."""


async def run(ctx: Context) -> None:
    """Try the cheaper ways first, and keep what is sure enough, or what most say."""
    await ctx.prefill()
    ctx.watch = True
    for thinks in (False, True) if ctx.budget.thinks else (False,):
        if ctx.branches and (ctx.hurried or not ctx.affords(1)):
            break
        one = (await ctx.branch(1))[0]
        one.score = await _alone(one, thinks)
        if one.score >= SURE and is_sound(one.thinking):
            said = Vote(answer=one.answer.strip(), candidates=(one.candidate,), weight=one.score)
            way = "thinking" if thinks else "answering at once"
            ctx.keep(one, decision(f"{way} was {one.score:.0%} sure", (said,)))
            return
    if not ctx.hurried and ctx.affords(1):
        for one in await sampled(ctx, ctx.number):
            one.score = certainty(one.watched[-one.tally.answer_tokens :])
    answers = await compared(ctx, ctx.branches)
    votes = weighed(ctx.branches, answers.labels)
    tell(ctx, votes)
    if votes:
        ctx.keep(leader(ctx, votes), decision(f"majority of {len(ctx.branches)}, none alone was sure", votes))


async def _alone(one: Context, thinks: bool) -> float:
    """Answer greedily, with a thought or without; how certain the answer was."""
    assert one.node is not None
    one.sampler = replace(one.sampler, temperature=0.0)
    if thinks:
        await one.think(one.node)
    else:
        await one.skip_thought()
    before = len(one.watched)
    await one.say(one.node)
    one.finish()
    return certainty(one.watched[before:])
