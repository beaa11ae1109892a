"""exit: think as cot does, but end the thought where probes find the answer settled.

A probe answers as if the thought ended there; it is settled where the tokens of that answer are certain. This
is DEER (Yang et al. 2025, arXiv:2504.15895), with its marks: before the thought looks back. The first token
of such a turn is dropped while the probe looks, and put back where the thought goes on.

On the same marks (tests/benchmarks/early_exit.py) the other two rules of the literature save less. Equal
answers in a row (Dynasor, Fu et al. 2024, arXiv:2412.20993) take a probe more, and where probes are many a
result in passing is taken for the answer. An entropy after the thought that varies no longer (EAT, Wang et
al. 2025, arXiv:2509.26522) takes more probes than thoughts of a few hundred tokens have room for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.backend import Node, Tokenizer
from engine.protocol import Decision, Vote
from engine.thinking.context import Context
from engine.thinking.probing import Guess, Probing

CERTAIN = 0.9
"""Certainty above which a guess is taken to be the answer."""
TURNS = ("Wait", "So", "Check", "But", "Hmm", "Alternatively", "Therefore", "Thus", "Actually")
"""How a line or sentence begins that looks back: before it, a thought may have got where it will."""
TURN_SHARE, SHARE = 0.5, 0.05
"""Of the tokens thought so far, what probes may have taken: before a turn, and where any other line or
sentence ends. So they come ever more rarely while nothing is settled."""

Rule = Callable[[Sequence[Guess]], bool]
"""Reads the guesses so far, the newest last: whether the answer is settled."""


def certain(guesses: Sequence[Guess]) -> bool:
    """DEER's rule."""
    return guesses[-1].certainty > CERTAIN


async def run(ctx: Context, rule: Rule = certain) -> None:
    """Prefill the prompt, think until the answer is settled, and answer."""
    await ctx.prefill()
    await ctx.reply(ending=Watchman(ctx, rule))


class Watchman:
    """Probes a thought at its marks, and says where it ends."""

    def __init__(self, ctx: Context, rule: Rule) -> None:
        self.turns = turn_ids(ctx.backend.tokenizer)
        self._ctx = ctx
        self._rule = rule
        self._probing = Probing(ctx.backend, ctx.format) if ctx.format is not None else None
        self._guesses: list[Guess] = []
        self._spent = self._price = 0

    async def __call__(self, node: Node, turn: bool) -> bool:
        """Whether the thought ends here, at the end of a line or sentence, before a `turn` or not."""
        ctx, budget, probing = self._ctx, self._ctx.budget, self._probing
        assert probing is not None  # it thinks
        thought = budget.lease.used
        allowed = (TURN_SHARE if turn else SHARE) * thought
        ctx.refit()
        left = budget.lease.limit - thought
        if self._spent + (self._price or probing.least) > allowed or left <= probing.most or ctx.hurried:
            return False
        before = _charged(node)
        guess = await probing(node)
        self._price = _charged(node) - before
        self._spent += self._price
        if guess is None:
            return False
        self._guesses.append(guess)
        if not self._rule(self._guesses):
            return False
        ctx.decision = Decision(
            rule=f"settled after {thought - turn} tokens of thought",
            votes=(Vote(answer=guess.answer, candidates=(ctx.candidate,), weight=guess.certainty),),
            margin=guess.certainty,
        )
        return True


def turn_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of turns, of those that are one token, with a space before them or without."""
    spelled = [tokenizer.encode(space + word) for word in TURNS for space in ("", " ")]
    return frozenset(ids[0] for ids in spelled if len(ids) == 1)


def _charged(node: Node) -> int:
    return sum(work.tokens for work in node.account.forwarded if work.kind == "probe")
