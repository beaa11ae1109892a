"""The methods of answering, one file each, and their register."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from engine.thinking.context import Context
from engine.thinking.methods import best, cot, direct, vote
from engine.thinking.refusals import UsageError

MOST = 64
"""Candidates that a method may have."""


@dataclass(frozen=True)
class Method:
    """A way to answer. One that `thinks` needs a thinking budget and a model that can think.

    One that `samples` has several candidates: `count` of them unless the request says how many (`vote:5`).
    They think where there is a budget for it, and answer directly where there is none.
    """

    name: str
    thinks: bool
    run: Callable[[Context], Awaitable[None]]
    count: int = 1

    @property
    def samples(self) -> bool:
        return self.count > 1

    @property
    def label(self) -> str:
        """As a request names it."""
        return f"{self.name}:{self.count}" if self.samples else self.name


METHODS = {
    method.name: method
    for method in (
        Method("direct", thinks=False, run=direct.run),
        Method("cot", thinks=True, run=cot.run),
        Method("vote", thinks=True, run=vote.run, count=8),
        Method("best", thinks=True, run=best.run, count=8),
    )
}


def method_of(text: str) -> Method:
    """The method that a request names, with its number of candidates. Raises UsageError."""
    name, colon, number = text.partition(":")
    method = METHODS.get(name)
    if method is None:
        near = difflib.get_close_matches(name, METHODS, 1)
        raise UsageError(
            f"there is no method {name[:40]!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            f"methods: {', '.join(f'{one.name}:N' if one.samples else one.name for one in METHODS.values())}",
        )
    if not colon:
        return method
    if not method.samples:
        raise UsageError(f"the method {name} takes no number", f"say {name}")
    if not (number.isascii() and number.isdecimal()) or not 2 <= int(number[:9]) <= MOST:
        raise UsageError(f"{text[:40]!r} does not say how many answers", f"say {name}:N, N from 2 to {MOST}")
    return replace(method, count=int(number))
