"""Probes: what a thought would be answered with if it ended where it is now. Knows no method and no torch.

A probe forks the thought, forces its end and what leads to the answer, samples up to LIMIT tokens greedily,
and is thrown away; the backend charges it as `probe`.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.backend import Backend, Node, OutOfContext, Sampler, Watch
from engine.thinking.confidence import certainty
from engine.thinking.formats import Resolved

LIMIT = 20
"""Tokens of an answer that is looked at: DEER's and Dynasor's."""


@dataclass(frozen=True)
class Guess:
    """An answer in passing: what is compared of its text, empty where it had no end within LIMIT tokens.

    `watched` are its tokens', whatever ended it left out; `first` is the first token's in any case.
    """

    answer: str
    watched: tuple[Watch, ...]
    first: Watch | None

    @property
    def certainty(self) -> float:
        """The mean over its tokens of the largest probability (DEER, arXiv:2504.15895); 0 for no answer."""
        return certainty(self.watched) if self.answer else 0.0


class Probing:
    """Probes nodes whose thought is open."""

    def __init__(self, backend: Backend, style: Resolved) -> None:
        self._backend = backend
        self._boxed = bool(style.format.lead)
        self._suffix = (*style.forced_end, *backend.tokenizer.encode(style.format.lead))

    @property
    def least(self) -> int:
        """Tokens that a probe takes where the answer is one token, a pending one included."""
        return 2 + len(self._suffix)

    @property
    def most(self) -> int:
        """Tokens that a probe takes at most, a pending one included."""
        return 1 + len(self._suffix) + LIMIT

    async def __call__(self, node: Node) -> Guess | None:
        """What the node's thought leads to by now; None where context or memory have no room to find out."""
        tokenizer = self._backend.tokenizer
        try:
            probe = await self._backend.probe(
                node,
                self._suffix,
                LIMIT,
                Sampler(temperature=0.0, top_p=1.0, top_k=0, seed=0),
                stop=tokenizer.eos_ids,
            )
        except OutOfContext:
            return None
        if probe is None:
            return None
        ids, ended = probe.ids, len(probe.watched) > len(probe.ids)
        text = tokenizer.decode(ids)
        if self._boxed and (close := _closing(text)) is not None:
            length = next(
                n for n in range(1, len(ids) + 1) if _closing(tokenizer.decode(ids[:n])) is not None
            )
            text, ids, ended = text[:close], ids[: length - 1], True
        return Guess(
            answer=plain(text) if ended and ids else "",
            watched=probe.watched[: len(ids)],
            first=probe.watched[0] if probe.watched else None,
        )


def plain(text: str) -> str:
    """As answers are compared: without case, with single spaces."""
    return " ".join(text.casefold().split())


def _closing(text: str) -> int | None:
    """Where the brace that the lead opened is closed."""
    depth = 1
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return at
    return None
