"""A value carried through a run of operations: bare, or with brackets."""

import random
from dataclasses import dataclass
from functools import partial

from engine.tasks.families.wording import Wording, ask_value
from engine.tasks.problem import Pen, Problem, Trace

LARGEST = 99


@dataclass(frozen=True)
class Operation:
    """One of + - * with its right operand."""

    sign: str
    operand: int

    def apply(self, value: int) -> int:
        """The value after this operation."""
        if self.sign == "*":
            return value * self.operand
        return value + self.operand if self.sign == "+" else value - self.operand


def draw_operation(rng: random.Random, value: int, signs: str) -> Operation:
    """An operation that keeps the value within 0 and LARGEST; subtraction always offers one."""
    while True:
        sign = rng.choice(signs)
        operation = Operation(sign, rng.randint(2, 5) if sign == "*" else rng.randint(1, 20))
        if 0 <= operation.apply(value) <= LARGEST:
            return operation


def draw_run(rng: random.Random, count: int, signs: str) -> tuple[int, list[Operation]]:
    """A first value and `count` operations on it, none of them twice while another fits.

    An operation that stands twice leaves it open which one comes next.
    """
    start = value = rng.randint(1, 20)
    operations: list[Operation] = []
    for _ in range(count):
        drawn = draw_operation(rng, value, signs)
        for _ in range(20):
            if drawn not in operations:
                break
            drawn = draw_operation(rng, value, signs)
        operations.append(drawn)
        value = drawn.apply(value)
    return start, operations


def near(value: int) -> list[int]:
    """Values that a slip could give."""
    return [value + offset for offset in (-10, -2, -1, 1, 2, 10) if value + offset >= 0]


def _solve_run(start: int, operations: list[Operation], pen: Pen) -> Trace:
    value, lines = start, []
    for step, operation in enumerate(operations):
        result = operation.apply(value)
        result = pen.write(step, result, near(result))
        lines.append(f"{value}{operation.sign}{operation.operand}={result}")
        value = result
    return Trace(tuple(lines), str(value))


def run_problem(family: str, question: str, start: int, operations: list[Operation]) -> Problem:
    """A problem solved by one line per operation."""
    key = f"{start}" + "".join(f"{o.sign}{o.operand}" for o in operations)
    solver = partial(_solve_run, start, operations)
    return Problem(family, len(operations), question, key, solver, tuple(range(len(operations))))


def _draw_chain(rng: random.Random, family: str, count: int, wording: Wording) -> Problem:
    start, operations = draw_run(rng, count, "+-")
    expression = f"{start}" + "".join(f" {o.sign} {o.operand}" for o in operations)
    return run_problem(family, ask_value(rng, expression, wording), start, operations)


def chain(rng: random.Random, level: int, wording: Wording) -> Problem:
    """A run of `level` additions and subtractions."""
    return _draw_chain(rng, "chain", level, wording)


def long_chain(rng: random.Random, level: int, wording: Wording) -> Problem:
    """A run of `level` additions and subtractions, eight or more."""
    return _draw_chain(rng, "long_chain", level, wording)


def expression(rng: random.Random, level: int, wording: Wording) -> Problem:
    """`level` operations, some of them products, with parentheses where precedence needs them."""
    start, operations = draw_run(rng, level, "++--*")
    written = str(start)
    for i, operation in enumerate(operations):
        if operation.sign == "*" and i > 0:
            written = f"({written})"
        written += f" {operation.sign} {operation.operand}"
    return run_problem("expression", ask_value(rng, written, wording), start, operations)
