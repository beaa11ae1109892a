"""The methods of answering, one file each, and their register."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.thinking.context import Context
from engine.thinking.methods import cot, direct


@dataclass(frozen=True)
class Method:
    """A way to answer. One that `thinks` needs a thinking budget and a model that can think."""

    name: str
    thinks: bool
    run: Callable[[Context], Awaitable[None]]


METHODS = {
    method.name: method
    for method in (
        Method("direct", thinks=False, run=direct.run),
        Method("cot", thinks=True, run=cot.run),
    )
}
