"""The methods of answering, one file each, and their register."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from engine.thinking.context import Context
from engine.thinking.methods import (
    agent,
    beam,
    best,
    cascade,
    cot,
    deepconf,
    direct,
    exit,
    mcts,
    refine,
    vote,
)
from engine.thinking.refusals import UsageError

AUTO = "auto"
"""The name under which a request leaves the method to the planner."""
MOST = 64
"""Candidates, or rounds, that a method may have."""


@dataclass(frozen=True)
class Method:
    """A way to answer. One that `thinks` needs a thinking budget and a model that can think.

    One with a `number` takes it from the request (`vote:5`), or this: of candidates where it `samples`, else
    of rounds. Candidates think where there is a budget for it, and answer directly where there is none.
    """

    name: str
    thinks: bool
    run: Callable[[Context], Awaitable[None]]
    number: int | None = None
    samples: bool = False
    searches: bool = False
    """Its candidates are thoughts that it goes on with or gives up: without thinking it has none."""

    @property
    def candidates(self) -> int:
        return self.number or 1 if self.samples else 1

    @property
    def label(self) -> str:
        """As a request names it."""
        return self.name if self.number is None else f"{self.name}:{self.number}"


METHODS = {
    method.name: method
    for method in (
        Method("direct", thinks=False, run=direct.run),
        Method("cot", thinks=True, run=cot.run),
        Method("exit", thinks=True, run=exit.run),
        Method("refine", thinks=True, run=refine.run, number=4),
        Method("vote", thinks=True, run=vote.run, number=8, samples=True),
        Method("deepconf", thinks=True, run=deepconf.run, number=16, samples=True),
        Method("best", thinks=True, run=best.run, number=8, samples=True),
        Method("cascade", thinks=True, run=cascade.run, number=5, samples=True),
        Method("agent", thinks=True, run=agent.run, number=16),
        Method("beam", thinks=True, run=beam.run, number=8, samples=True, searches=True),
        Method("mcts", thinks=True, run=mcts.run, number=16, samples=True, searches=True),
    )
}


def method_of(text: str) -> Method:
    """The method that a request names, with its number of candidates. Raises UsageError."""
    name, colon, number = text.partition(":")
    method = METHODS.get(name)
    if method is None:
        near = difflib.get_close_matches(name, [*METHODS, AUTO], 1)
        names = [f"{one.name}:N" if one.number else one.name for one in METHODS.values()]
        raise UsageError(
            f"there is no method {name[:40]!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            f"methods: {', '.join([*names, AUTO])}",
        )
    if not colon:
        return method
    if method.number is None:
        raise UsageError(f"the method {name} takes no number", f"say {name}")
    least = 2 if method.samples else 1
    if not (number.isascii() and number.isdecimal()) or not least <= int(number[:9]) <= MOST:
        what = "answers" if method.samples else "rounds"
        raise UsageError(
            f"{text[:40]!r} does not say how many {what}", f"say {name}:N, N from {least} to {MOST}"
        )
    return replace(method, number=int(number))
