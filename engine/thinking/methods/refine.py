"""refine:K: think, and where a step is found wrong, be told so on the spot; up to K times.

Lines such as `12+7=19` are read and computed as they are written; after a wrong one the thought goes on with
"Wait, let me check.". A check from outside is what makes correction pay: models that are asked to look for
mistakes of their own get worse (Huang et al. 2023, arXiv:2310.01798). Code for which there are tests is
checked by these instead: see `repair`.
"""

from engine.tasks.steps import CHECK_PHRASE, first_wrong_line
from engine.thinking.context import Context
from engine.thinking.methods import repair

WAIT = f"{CHECK_PHRASE}\n"


async def run(ctx: Context) -> None:
    """Prefill the prompt, think under the eyes of the checker, and answer; or have tests check the answer."""
    if ctx.verifier is not None and ctx.verifier.name == "tests":
        await repair.run(ctx)
        return
    await ctx.prefill()
    await ctx.reply(Checker(ctx.number))


class Checker:
    """Doubts each line once."""

    def __init__(self, rounds: int) -> None:
        self._left = rounds
        self._read = 0

    def __call__(self, thought: str) -> str | None:
        rest = thought[self._read :]
        wrong = first_wrong_line(rest)
        self._read += wrong.end if wrong is not None else rest.rfind("\n") + 1
        if wrong is None or not self._left:
            return None
        self._left -= 1
        return WAIT
