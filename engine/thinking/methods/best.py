"""best:N: N samples side by side; the answer for which the soundest thoughts speak, the surest loudest.

A thought with a wrong step in it (`a+b=c` lines are read and computed) that it does not take back at once has
no say, unless all have one. Each of the others speaks for its answer with its lowest confidence over a
window, DeepConf's measure. Sources: weighted best-of-N, Li et al. 2022 (arXiv:2206.02336); Fu et al. 2025
(arXiv:2508.15260).
"""

from engine.tasks.steps import first_wrong_line
from engine.thinking.confidence import confidence
from engine.thinking.context import Context
from engine.thinking.methods.samples import by_id, sampled, tell
from engine.thinking.voting import count, decision

TAKEN_BACK = "Wait"
"""How the line begins that takes back the one before it."""


def is_sound(thought: str) -> bool:
    """Whether every wrong line of a thought is taken back by the next."""
    rest = thought + "\n"
    while (wrong := first_wrong_line(rest)) is not None:
        rest = rest[wrong.end :]
        if not rest.startswith(TAKEN_BACK):
            return False
    return True


async def run(ctx: Context) -> None:
    """Sample all, check each, and keep the best of those with the weightiest answer."""
    await ctx.prefill()
    ctx.watch = True
    await sampled(ctx, 1 if ctx.hurried else ctx.number)
    sound = [one for one in ctx.branches if is_sound(one.thinking)]
    for one in ctx.branches:
        sure = confidence(one.watched)
        one.score = sure.lowest if sure is not None and (one in sound or not sound) else 0.0
    votes = count([(one.candidate, one.answer, one.score or 0.0) for one in ctx.branches])
    tell(ctx, votes)
    if votes:
        best = max((by_id(ctx, name) for name in votes[0].candidates), key=lambda one: one.score or 0.0)
        rule = f"confidence, of the {len(sound)} of {len(ctx.branches)} thoughts without a wrong step"
        ctx.keep(best, decision(rule if sound else "confidence; all thoughts have a wrong step", votes))
