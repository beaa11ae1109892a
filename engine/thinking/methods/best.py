"""best:N: N samples side by side; the answer for which a verifier speaks most.

Which verifier, follows from the type of the answers where none is asked for: a check of the thoughts' steps,
or for free text a ranking by self-certainty and a question to the model. What several answer alike is weighed
together. Source: weighted best-of-N, Li et al. 2022 (arXiv:2206.02336).
"""

from engine.thinking.context import Context
from engine.thinking.methods.samples import chosen_by, compared, leader, sampled, tell
from engine.thinking.voting import decision


async def run(ctx: Context) -> None:
    """Sample all, have them judged, and keep the best of those with the weightiest answer."""
    await ctx.prefill()
    ctx.watch = True
    await sampled(ctx, 1 if ctx.hurried else ctx.number)
    answers = await compared(ctx, ctx.branches)
    votes, rule = await chosen_by(ctx, ctx.branches, answers)
    tell(ctx, votes)
    if votes:
        rule += f"; {answers.note}" if answers.note else ""
        ctx.keep(leader(ctx, votes), decision(rule, votes))
