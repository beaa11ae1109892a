"""vote:N: up to N samples side by side; the answer that most of them give. It stops when that is clear.

Sources: self-consistency, Wang et al. 2022 (arXiv:2203.11171); the stopping rule of Adaptive-Consistency,
Aggarwal et al. 2023 (arXiv:2305.11860). Samples begin in waves, each as large as could settle the vote, and
count in the order of their numbers, so that what is kept does not depend on who ends first.
"""

from engine.protocol import Vote
from engine.thinking.context import Context
from engine.thinking.methods.samples import by_id, sampled, tell
from engine.thinking.voting import count, decision, settled, until_settled


async def run(ctx: Context) -> None:
    """Sample, count, and sample more while another answer might still win."""
    await ctx.prefill()
    votes: tuple[Vote, ...] = ()
    wave = 1 if ctx.hurried else min(ctx.number, until_settled(0, 0))
    while wave:
        await sampled(ctx, wave)
        votes = count([(one.candidate, one.answer, 1.0) for one in ctx.branches])
        tell(ctx, votes)
        leader, second = (int(votes[at].weight) if at < len(votes) else 0 for at in (0, 1))
        left = ctx.number - len(ctx.branches)
        over = ctx.hurried or settled(leader, second) or leader - second > left
        wave = 0 if over else ctx.affords(min(left, until_settled(leader, second)))
    if votes:
        asked, most = len(ctx.branches), ctx.number
        rule = f"majority of {asked}" if asked == most else f"majority, clear after {asked} of {most}"
        ctx.keep(by_id(ctx, votes[0].candidates[0]), decision(rule, votes))
