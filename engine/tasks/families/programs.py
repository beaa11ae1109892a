"""Variables defined through one another, and small Python programs followed line by line."""

import random
import string
from dataclasses import dataclass
from functools import partial

from engine.tasks.families.running import LARGEST, Operation, draw_operation, near
from engine.tasks.families.wording import Phrases, Wording
from engine.tasks.problem import Pen, Problem, Trace

_LETTERS = [c for c in string.ascii_lowercase if c not in "ijlox"]
_ASKED = Phrases(
    (
        "What is {}?",
        "Find {}.",
        "{} = ?",
        "How much is {}?",
        "What is the value of {}?",
        "Give {}.",
        "So what is {}?",
        "Say what {} is.",
        "What value has {}?",
        "Work out {}.",
        "Tell me {}.",
    ),
    ("Then what is {}?", "Determine {}.", "What does {} equal?"),
)


@dataclass(frozen=True)
class Definition:
    """A variable set to a number (`source` is None), or computed from the variable with index `source`."""

    source: int | None
    operation: Operation


def _solve_variables(letters: list[str], definitions: list[Definition], pen: Pen) -> Trace:
    """A definition is copied ("s: d+9"), what it uses is called to mind ("d=19"), and the value is worked out
    and noted under its name ("s=28")."""
    values: list[int] = []
    lines: list[str] = []
    for letter, definition in zip(letters, definitions, strict=True):
        operation = definition.operation
        if definition.source is None:
            value = operation.operand
        else:
            before = values[definition.source]
            value = operation.apply(before)
            rest = f"{operation.sign}{operation.operand}"
            source = letters[definition.source]
            lines += [f"{letter}: {source}{rest}", f"{source}={before}"]
            value = pen.write(len(lines), value, near(value))
            lines.append(f"{before}{rest}={value}")
        lines.append(f"{letter}={value}")
        values.append(value)
    return Trace(tuple(lines), str(values[-1]))


def variables(rng: random.Random, level: int, wording: Wording) -> Problem:
    """`level` variables defined through one another; the last one is asked for."""
    letters = rng.sample(_LETTERS, level)
    definitions: list[Definition] = []
    values: list[int] = []
    for i in range(level):
        if i == 0 or (i < level - 1 and rng.random() < 0.2):
            definitions.append(Definition(None, Operation("+", rng.randint(1, 20))))
            values.append(definitions[-1].operation.operand)
        else:
            source = i - 1 if rng.random() < 0.7 else rng.randrange(i)
            definitions.append(Definition(source, draw_operation(rng, values[source], "+-")))
            values.append(definitions[-1].operation.apply(values[source]))
    written = [
        f"{letter} = {d.operation.operand}"
        if d.source is None
        else f"{letter} = {letters[d.source]} {d.operation.sign} {d.operation.operand}"
        for letter, d in zip(letters, definitions, strict=True)
    ]
    between = rng.choice(("; ", "; ", ", ", ". "))
    asked = _ASKED.draw(rng, wording).format(letters[-1])
    key = ";".join(f"{d.source}{d.operation.sign}{d.operation.operand}" for d in definitions)
    solver = partial(_solve_variables, letters, definitions)
    return Problem(
        "variables",
        level,
        between.join(written) + ". " + asked,
        key,
        solver,
        tuple(i for i, line in enumerate(solver(Pen()).lines) if _is_sum(line)),
    )


def _is_sum(line: str) -> bool:
    """Whether it works out a value: "19+9=28"."""
    return line[0].isdigit() and "=" in line


@dataclass(frozen=True)
class _Statement:
    """`target = source operation`, `times` times over, and only where `target > above`, if that is set."""

    target: str
    source: str
    operation: Operation
    times: int = 1
    above: int | None = None

    def code(self) -> str:
        """The statement as Python."""
        body = f"{self.target} = {self.source} {self.operation.sign} {self.operation.operand}"
        if self.times > 1:
            return f"for i in range({self.times}): {body}"
        return body if self.above is None else f"if {self.target} > {self.above}: {body}"


def _follow(start: dict[str, int], statements: list[_Statement], asked: str, pen: Pen) -> Trace:
    values = dict(start)
    lines = [f"{name}={value}" for name, value in values.items()]
    for s in statements:
        if s.above is not None:
            passed = values[s.target] > s.above
            lines.append(f"{s.target}={values[s.target]}")
            lines.append(f"{values[s.target]}>{s.above} {'yes' if passed else 'no'}")
            if not passed:
                continue
        rest = f"{s.operation.sign}{s.operation.operand}"
        for turn in range(1, s.times + 1):
            before = values[s.source]
            value = s.operation.apply(before)
            count = f"{turn} " if s.times > 1 else ""
            lines += [f"{count}{s.target}: {s.source}{rest}", f"{s.source}={before}"]
            value = pen.write(len(lines), value, near(value))
            lines += [f"{before}{rest}={value}", f"{s.target}={value}"]
            values[s.target] = value
    return Trace(tuple(lines), str(values[asked]))


def _draw_statement(rng: random.Random, values: dict[str, int]) -> _Statement:
    """A statement that keeps every value within 0 and LARGEST."""
    while True:
        target = rng.choice(list(values))
        kind = rng.random()
        if kind < 0.25:
            times, operation = rng.randint(2, 4), Operation(rng.choice("++-"), rng.randint(1, 9))
            ends = Operation(operation.sign, operation.operand * times).apply(values[target])
            if 0 <= ends <= LARGEST:
                return _Statement(target, target, operation, times=times)
            continue
        above = rng.randint(1, 40) if kind < 0.5 else None
        source = target if above is not None or rng.random() < 0.5 else rng.choice(list(values))
        return _Statement(target, source, draw_operation(rng, values[source], "+-+-*"), above=above)


_PRINTED = Phrases(
    (
        "What does this program print?\n{}",
        "What does this Python code print?\n{}",
        "{}\nWhat is printed?",
        "Trace this program:\n{}",
        "What is the output?\n{}",
        "Follow this program:\n{}",
        "{}\nWhat does it print?",
        "Here is some code.\n{}\nWhat is the result?",
        "Go through this code line by line:\n{}",
        "Say what this prints.\n{}",
        "{}",
    ),
    ("Run this in your head:\n{}", "{}\nWhat comes out?"),
)


def program(rng: random.Random, level: int, wording: Wording) -> Problem:
    """`level` statements on one or two variables: assignments, repetitions and conditions."""
    names = rng.sample(["x", "y", "a", "b", "m", "k"], rng.randint(1, 2))
    start = {name: rng.randint(1, 20) for name in names}
    values, statements = dict(start), []
    for _ in range(level):
        statement = _draw_statement(rng, values)
        statements.append(statement)
        if statement.above is None or values[statement.target] > statement.above:
            for _ in range(statement.times):
                values[statement.target] = statement.operation.apply(values[statement.source])
    asked = statements[-1].target
    code = "\n".join(
        [
            *(f"{name} = {value}" for name, value in start.items()),
            *(s.code() for s in statements),
            f"print({asked})",
        ]
    )
    solver = partial(_follow, start, statements, asked)
    lines = solver(Pen()).lines
    # A slip before a condition could turn it, so that other lines would follow.
    conditions = [i for i, line in enumerate(lines) if ">" in line]
    last = conditions[-1] if conditions else -1
    steps = tuple(i for i, line in enumerate(lines) if i > last and _is_sum(line))
    renamed = code
    for index, name in enumerate(names):
        renamed = renamed.replace(f"{name} ", f"v{index} ").replace(f"({name})", f"(v{index})")
    question = _PRINTED.draw(rng, wording).format(code)
    return Problem("program", level, question, renamed, solver, steps)
