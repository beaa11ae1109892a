"""Countdown: reach a number from given ones. The thought is a depth-first search that backs up.

Every expression that reaches the target is right; it is read by a parser of its own, never run.
"""

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from engine.tasks.families.running import LARGEST, near
from engine.tasks.families.wording import Phrases, Wording
from engine.tasks.problem import Pen, Problem, Trace

# By level: how many numbers, which signs, and the fewest and most lines that the search may take.
_LEVELS = ((3, "+-*", 8, 36), (4, "+-", 22, 50))
_LONGEST_REPLY = 400
_ASKED = Phrases(
    (
        "Use {numbers} with {signs} to make {target}. Each number at most once.",
        "Make {target} from {numbers} with {signs}. Use each number at most once.",
        "Countdown: {numbers}. Target {target}. Signs: {signs}.",
        "Reach {target} using {numbers} with {signs}, each number at most once.",
        "How can I make {target} out of {numbers} with {signs}?",
        "Get {target} from {numbers} with {signs}, and use no number again.",
        "Find a way to {target} from {numbers} with {signs}.",
        "Write {target} with {numbers} and the signs {signs}.",
        "{numbers} with {signs}: make {target}.",
        "Try to reach {target} with {signs} from {numbers}.",
        "Can {numbers} give {target} with {signs}?",
    ),
    (
        "Combine {numbers} with {signs} so that you get {target}. No number twice.",
        "I have {numbers}. Get me to {target} with {signs}.",
    ),
)


@dataclass(frozen=True)
class _Term:
    """A number at hand and the expression that gave it."""

    value: int
    text: str


@dataclass(frozen=True)
class _Pair:
    """Two numbers that are tried next, and those that are left beside them."""

    a: _Term
    b: _Term
    rest: list[_Term]


@dataclass(frozen=True)
class _Join:
    """Two numbers joined, as it is written, and the numbers that are left beside the result.

    A result above LARGEST is not followed.
    """

    written: str
    result: _Term
    rest: list[_Term]

    @property
    def followed(self) -> bool:
        """Whether the search goes on from here."""
        return self.result.value <= LARGEST


def _joined(pair: _Pair, signs: str) -> Iterator[_Join]:
    """What two numbers give, sign by sign; never below zero."""
    for sign in signs:
        x, y = (pair.b, pair.a) if sign == "-" and pair.b.value > pair.a.value else (pair.a, pair.b)
        result = {"+": x.value + y.value, "-": x.value - y.value, "*": x.value * y.value}[sign]
        yield _Join(f"{x.value}{sign}{y.value}", _Term(result, f"({x.text}{sign}{y.text})"), pair.rest)


def _walk(terms: list[_Term], signs: str) -> Iterator[_Pair | _Join]:
    """Every pair and every join of two numbers, depth first, in the order of the numbers and signs.

    A pair is announced while numbers are left beside it: the line of the thought to come back to.
    """
    for i, a in enumerate(terms):
        for b in terms[i + 1 :]:
            pair = _Pair(a, b, [term for term in terms if term is not a and term is not b])
            if pair.rest:
                yield pair
            for join in _joined(pair, signs):
                yield join
                if join.rest and join.followed:
                    yield from _walk([join.result, *join.rest], signs)


def _terms(numbers: list[int]) -> list[_Term]:
    return [_Term(number, str(number)) for number in numbers]


def _solve(numbers: list[int], target: int, signs: str, pen: Pen) -> Trace:
    """A line per pair and per join; those of the last two numbers say whether they reach the target."""
    lines: list[str] = []
    for step in _walk(_terms(numbers), signs):
        if isinstance(step, _Pair):
            lines.append(f"{step.a.value} {step.b.value} left {_listed(step.rest)}")
        elif not step.followed:
            lines.append(f"{step.written} > {LARGEST}")
        elif step.rest:
            lines.append(f"{step.written}={step.result.value}")
        else:
            value = step.result.value
            value = pen.write(len(lines), value, [wrong for wrong in near(value) if wrong != target])
            reached = value == target
            lines.append(f"{step.written}={value} {target} {'yes' if reached else 'no'}")
            if reached:
                return Trace(tuple(lines), step.result.text[1:-1])
    raise ValueError(f"{target} cannot be reached from {numbers}")


def _listed(terms: list[_Term]) -> str:
    return " ".join(str(term.value) for term in terms)


def countdown(rng: random.Random, level: int, wording: Wording) -> Problem:
    """Three numbers with + - *, or four with + and -, whose search is neither short nor endless."""
    count, signs, fewest, most = _LEVELS[level - 1]
    numbers: list[int] = []
    targets: list[int] = []
    while not targets:
        numbers = rng.sample(range(1, 16), count)
        ends: dict[int, int] = {}  # the line that first gives a value
        for index, step in enumerate(islice(_walk(_terms(numbers), signs), most)):
            if isinstance(step, _Join) and step.followed and not step.rest:
                ends.setdefault(step.result.value, index)
        targets = [value for value, index in ends.items() if value and index + 1 >= fewest]
    target = rng.choice(targets)
    solver = partial(_solve, numbers, target, signs)
    listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
    question = _ASKED.draw(rng, wording).format(
        numbers=listed, signs=" and ".join(", ".join(signs).rsplit(", ", 1)), target=target
    )
    steps = tuple(i for i, line in enumerate(solver(Pen()).lines) if line.endswith(" no"))
    key = f"countdown {sorted(numbers)} {target}"
    return Problem(
        "countdown", level, question, key, solver, steps, lambda reply: reaches(reply, numbers, target)
    )


def reaches(reply: str, numbers: list[int], target: int) -> bool:
    """Whether the last expression of `reply` makes `target` with each of `numbers` used at most once."""
    text = re.sub("[x×]", "*", reply[-_LONGEST_REPLY:])
    text = re.sub(rf"=\s*{target}(?!\d)", " ; ", text)
    written = [e.strip() for e in re.findall(r"[\d(][\d\s()+*-]*", text) if re.search(r"[+*-]", e)]
    if not written:
        return False
    try:
        tree = ast.parse(written[-1], mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    used: Counter[int] = Counter()
    value = _value(tree, used)
    return value == target and not used - Counter(numbers)


def _value(node: ast.expr, used: Counter[int]) -> int | None:
    """The value of whole numbers joined by + - *, counting those used; None for anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return node.value
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _value(node.left, used), _value(node.right, used)
    if left is None or right is None:
        return None
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
    return None
