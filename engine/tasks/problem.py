"""One problem with its worked solution, right or with a mistake planted in it.

Knows no family, no tokenizer and no torch.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Trace:
    """The lines of a thought, in order and without their newlines, and the answer they lead to."""

    lines: tuple[str, ...]
    answer: str


class Pen:
    """Writes the values of a solution; told to slip at one step, it writes a wrong value there."""

    def __init__(self, slip_step: int | None = None, seed: int = 0) -> None:
        self._slip_step = slip_step
        self._rng = random.Random(seed)

    def write(self, step: int, right: Value, plausible: Sequence[Value]) -> Value:
        """Return `right`, or at the slipping step one of the `plausible` values that differs from it."""
        if step != self._slip_step:
            return right
        wrong = [value for value in plausible if value != right]
        return self._rng.choice(wrong) if wrong else right


@dataclass(frozen=True)
class Problem:
    """A question in words and the way to its answer.

    `key` identifies the underlying problem (operands, not wording) and decides its split.
    A step is the index of a line of thought; `slippable` lists the steps at which a mistake can be planted.
    """

    family: str
    level: int
    question: str
    key: str
    solver: Callable[[Pen], Trace]
    slippable: tuple[int, ...]
    verifier: Callable[[str], bool] | None = (
        None  # where more than one reply is right, or a reply is a phrase
    )

    @cached_property
    def solution(self) -> Trace:
        """The right solution."""
        return self.solver(Pen())

    @property
    def answer(self) -> str:
        """A right answer: an integer, a word, a date or an expression."""
        return self.solution.answer

    def solve_with_mistake(self, step: int, seed: int) -> Trace:
        """The solution with a wrong value at line `step`, carried on consistently from there."""
        return self.solver(Pen(step, seed))

    def accepts(self, reply: str) -> bool:
        """Whether `reply` is right: by the verifier, or else by its last number or word."""
        if self.verifier is not None:
            return self.verifier(reply)
        pattern = r"(?<!\d)-?\d+(?:\.\d+)?" if self.answer.lstrip("-").isdigit() else r"[A-Za-z]+"
        found = re.findall(pattern, reply.replace(",", ""))
        return bool(found) and found[-1].casefold() == self.answer.casefold()
