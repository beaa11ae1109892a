"""deepconf:N: a vote whose samples are given up midway where they are less sure than the first few ever were.

A quarter of the samples run to their end; the least sure passage of each tells what is usual here. The
others begin in waves, and whoever has one less sure than nine of ten of those is ended on the spot. Those
that end vote with the confidence of their own least sure passage; it is over when one answer has 95 % of
that. Source: "Deep Think with Confidence", Fu et al. 2025 (arXiv:2508.15260), the online algorithm with
eta = 90 %; its window of 2,048 tokens is scaled down to the thoughts that there are.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from engine.protocol import Vote
from engine.thinking.confidence import lowest_group, window_of
from engine.thinking.context import Context, together
from engine.thinking.methods.samples import compared, leader, sampled, tell, weighed
from engine.thinking.voting import decision

LEAST_FIRST = 4
KEPT = 0.9
"""Share of the first few that would have been let go on to their end."""
CONSENSUS = 0.95


@dataclass(frozen=True)
class Bar:
    """Below it nobody goes on: a confidence in nats, the mean over `window` tokens."""

    confidence: float
    window: int

    @staticmethod
    def of(first: list[Context]) -> Bar:
        """From samples that ran to their end."""
        window = round(statistics.median(window_of(len(one.watched)) for one in first))
        groups = [lowest_group(one.watched, window) for one in first]
        return Bar(float(np.quantile(groups, 1 - KEPT)), window)

    def lets_pass(self, one: Context) -> bool:
        """Too few tokens to tell are let pass."""
        return len(one.watched) < self.window or lowest_group(one.watched, self.window) >= self.confidence


async def run(ctx: Context) -> None:
    """Sample a few whole, then others as far as they are sure enough, until their votes agree."""
    await ctx.prefill()
    ctx.watch = True
    wave = max(LEAST_FIRST, ctx.number // 4)
    first = await sampled(ctx, 1 if ctx.hurried else min(wave, ctx.number))
    bar = Bar.of(first)
    votes, note = await _counted(ctx, bar)
    while votes and not ctx.hurried and _share(votes) < CONSENSUS:
        count = ctx.affords(min(wave, ctx.number - len(ctx.branches)))
        if not count:
            break
        begun = await ctx.branch(count)
        await together(_as_far_as_sure(one, bar) for one in begun)
        votes, note = await _counted(ctx, bar)
    if votes:
        ctx.keep(leader(ctx, votes), decision(_rule(ctx, first) + note, votes))


async def _as_far_as_sure(one: Context, bar: Bar) -> None:
    """Think, looking back at each sentence's end, and answer; or be given up."""
    assert one.node is not None
    ends = one.backend.tokenizer.sentence_ends()
    while one.budget.thinks and await one.think(one.node, pause=ends):
        if not bar.lets_pass(one):
            if one.share is not None:
                one.purse.close(one.share)
            await one.backend.cancel(one.node)
            return
    await one.say(one.node)
    one.finish()


async def _counted(ctx: Context, bar: Bar) -> tuple[tuple[Vote, ...], str]:
    """The votes of those that have ended, and how they were compared."""
    ended = [one for one in ctx.branches if one.done]
    for one in ended:
        one.score = lowest_group(one.watched, bar.window)
    answers = await compared(ctx, ended)
    votes = weighed(ended, answers.labels)
    tell(ctx, votes)
    return votes, f"; {answers.note}" if answers.note else ""


def _share(votes: tuple[Vote, ...]) -> float:
    total = sum(vote.weight for vote in votes)
    return votes[0].weight / total if total else 1.0


def _rule(ctx: Context, first: list[Context]) -> str:
    """What was given up, and about how many tokens that saved: they are taken to have become as long as the
    first few."""
    given_up = [one for one in ctx.branches if not one.done]
    whole = statistics.fmean(_tokens(one) for one in first)
    saved = sum(max(0.0, whole - _tokens(one)) for one in given_up)
    rule = f"majority of {len(ctx.branches) - len(given_up)} by confidence"
    if given_up:
        rule += f"; {len(given_up)} of {len(ctx.branches)} given up midway, about {saved:,.0f} tokens saved"
    return rule


def _tokens(one: Context) -> int:
    return one.tally.thinking_tokens + one.tally.answer_tokens
