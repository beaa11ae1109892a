"""vote:N: up to N samples side by side; the answer that most of them give. It stops when that is clear.

A vote weighs a little more the likelier its tokens were to the model, which decides between answers that as
many give; or a verifier does, where one was asked for or the answers are free text. Samples begin in waves,
each as large as could settle the vote, and count in the order of their numbers, so that what is kept does not
depend on who ends first. Sources: self-consistency, its votes weighed by normalized probability, Wang et al.
2022 (arXiv:2203.11171); the stopping rule of Adaptive-Consistency, on numbers of samples, Aggarwal et al.
2023 (arXiv:2305.11860).
"""

from engine.protocol import Vote
from engine.thinking.confidence import likelihood
from engine.thinking.context import Context
from engine.thinking.methods.samples import chosen_by, compared, leader, sampled, tell, weighed
from engine.thinking.voting import decision, next_wave


async def run(ctx: Context) -> None:
    """Sample, count, and sample more while another answer might still win."""
    await ctx.prefill()
    ctx.watch = True
    votes: tuple[Vote, ...] = ()
    wanted = 0
    wave = 1 if ctx.hurried else next_wave((), 0, ctx.number)
    while wave:
        for one in await sampled(ctx, wave):
            one.score = likelihood(one.watched)
        answers = await compared(ctx, ctx.branches)
        votes = weighed(ctx.branches, answers.labels)
        tell(ctx, votes)
        wanted = next_wave(votes, len(ctx.branches), ctx.number)
        wave = 0 if ctx.hurried else ctx.affords(wanted)
    if not votes:
        return
    asked, most = len(ctx.branches), ctx.number
    rule = f"majority of {asked}" if asked == most else f"majority, clear after {asked} of {most}"
    if wanted:
        rule = f"majority of the {asked} that there was time or budget for"
    rule += f"; {answers.note}" if answers.note else ""
    tied = [vote for vote in votes if len(vote.candidates) == max(len(one.candidates) for one in votes)]
    asks = ctx.verifier is not None or answers.kind == "text"
    if len(tied) > 1 and asks and not ctx.hurried:
        names = {name for vote in tied for name in vote.candidates}
        candidates = [one for one in ctx.branches if one.candidate in names]
        votes, by = await chosen_by(ctx, candidates, await compared(ctx, candidates))
        rule = f"{len(tied)} answers of {len(tied[0].candidates)} each; {by}"
    ctx.keep(leader(ctx, votes), decision(rule, votes))
