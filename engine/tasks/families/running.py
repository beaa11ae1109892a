"""A value carried through a run of operations: bare, bracketed, told as a story, or through variables."""

import random
import string
from dataclasses import dataclass
from functools import partial

from engine.tasks.families.wording import ITEMS, NAMES, ask_value
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


def _draw_operation(rng: random.Random, value: int, signs: str) -> Operation:
    """An operation that keeps the value within 0 and LARGEST; subtraction always offers one."""
    while True:
        sign = rng.choice(signs)
        operation = Operation(sign, rng.randint(2, 5) if sign == "*" else rng.randint(1, 20))
        if 0 <= operation.apply(value) <= LARGEST:
            return operation


def _draw_run(rng: random.Random, count: int, signs: str) -> tuple[int, list[Operation]]:
    start = value = rng.randint(1, 20)
    operations = []
    for _ in range(count):
        operations.append(_draw_operation(rng, value, signs))
        value = operations[-1].apply(value)
    return start, operations


def _near(value: int) -> list[int]:
    return [value + offset for offset in (-10, -2, -1, 1, 2, 10) if value + offset >= 0]


def _solve_run(start: int, operations: list[Operation], pen: Pen) -> Trace:
    value, lines = start, []
    for step, operation in enumerate(operations):
        result = operation.apply(value)
        result = pen.write(step, result, _near(result))
        lines.append(f"{value}{operation.sign}{operation.operand}={result}")
        value = result
    return Trace(tuple(lines), str(value))


def _run_problem(family: str, question: str, start: int, operations: list[Operation]) -> Problem:
    key = f"{start}" + "".join(f"{o.sign}{o.operand}" for o in operations)
    solver = partial(_solve_run, start, operations)
    return Problem(family, len(operations), question, key, solver, tuple(range(len(operations))))


def _draw_chain(rng: random.Random, family: str, count: int) -> Problem:
    start, operations = _draw_run(rng, count, "+-")
    expression = f"{start}" + "".join(f" {o.sign} {o.operand}" for o in operations)
    return _run_problem(family, ask_value(rng, expression), start, operations)


def chain(rng: random.Random) -> Problem:
    """A run of two to seven additions and subtractions."""
    return _draw_chain(rng, "chain", rng.randint(2, 7))


def long_chain(rng: random.Random) -> Problem:
    """A run of eight to sixteen additions and subtractions."""
    return _draw_chain(rng, "long_chain", rng.randint(8, 16))


def expression(rng: random.Random) -> Problem:
    """Two to five operations, some of them products, with parentheses where precedence needs them."""
    start, operations = _draw_run(rng, rng.randint(2, 5), "++--*")
    written = str(start)
    for i, operation in enumerate(operations):
        if operation.sign == "*" and i > 0:
            written = f"({written})"
        written += f" {operation.sign} {operation.operand}"
    return _run_problem("expression", ask_value(rng, written), start, operations)


def story(rng: random.Random) -> Problem:
    """A person gains and loses things in one to five sentences."""
    start, operations = _draw_run(rng, rng.randint(1, 5), "++--*")
    who, items = rng.choice(NAMES), rng.choice(ITEMS)
    sentences = [f"{who} has {start} {items}."]
    for operation in operations:
        other = rng.choice([name for name in NAMES if name != who])
        n = operation.operand
        told = {
            "+": (f"{who} buys {n} more.", f"{other} gives {who} {n} more.", f"{who} finds {n} more."),
            "-": (f"{who} gives {n} to {other}.", f"{who} loses {n}.", f"{who} sells {n}."),
            "*": (
                f"Then the number of {items} is multiplied by {n}.",
                f"Then {who} has {n} times as many.",
            ),
        }
        sentences.append(rng.choice(told[operation.sign]))
    sentences.append(rng.choice((f"How many {items} does {who} have now?", f"How many {items} are left?")))
    return _run_problem("story", " ".join(sentences), start, operations)


@dataclass(frozen=True)
class Definition:
    """A variable set to a number (`source` is None), or computed from the variable with index `source`."""

    source: int | None
    operation: Operation


def _solve_variables(letters: list[str], definitions: list[Definition], pen: Pen) -> Trace:
    values: list[int] = []
    lines = []
    for step, (letter, definition) in enumerate(zip(letters, definitions, strict=True)):
        operation = definition.operation
        if definition.source is None:
            value = operation.operand
            lines.append(f"{letter}={value}")
        else:
            before = values[definition.source]
            value = operation.apply(before)
            value = pen.write(step, value, _near(value))
            lines.append(f"{letter}={before}{operation.sign}{operation.operand}={value}")
        values.append(value)
    return Trace(tuple(lines), str(values[-1]))


def variables(rng: random.Random) -> Problem:
    """Two to six variables defined through one another; the last one is asked for."""
    count = rng.randint(2, 6)
    letters = rng.sample([c for c in string.ascii_lowercase if c not in "ijlox"], count)
    definitions: list[Definition] = []
    values: list[int] = []
    for i in range(count):
        if i == 0 or (i < count - 1 and rng.random() < 0.2):
            definitions.append(Definition(None, Operation("+", rng.randint(1, 20))))
            values.append(definitions[-1].operation.operand)
        else:
            source = i - 1 if rng.random() < 0.7 else rng.randrange(i)
            definitions.append(Definition(source, _draw_operation(rng, values[source], "+-")))
            values.append(definitions[-1].operation.apply(values[source]))
    written = [
        f"{letter} = {d.operation.operand}"
        if d.source is None
        else f"{letter} = {letters[d.source]} {d.operation.sign} {d.operation.operand}"
        for letter, d in zip(letters, definitions, strict=True)
    ]
    asked = rng.choice(("What is {}?", "Find {}.", "{} = ?")).format(letters[-1])
    key = ";".join(f"{d.source}{d.operation.sign}{d.operation.operand}" for d in definitions)
    return Problem(
        "variables",
        count,
        "; ".join(written) + ". " + asked,
        key,
        partial(_solve_variables, letters, definitions),
        tuple(i for i, d in enumerate(definitions) if d.source is not None),
    )
