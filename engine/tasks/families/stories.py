"""Word problems: things gained and lost, boxes, prices, ages, shares."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from engine.tasks.families.running import LARGEST, Operation, draw_run, near, run_problem
from engine.tasks.families.wording import ITEMS, Phrases, Wording, draw_names
from engine.tasks.problem import Pen, Problem, Trace

_BEGINS = Phrases(
    ("{who} has {n} {items}.", "{who} starts with {n} {items}.", "There are {n} {items} in {who}'s bag."),
    ("At first {who} has {n} {items}.", "{who} owns {n} {items}."),
)
_GAINS = Phrases(
    (
        "{who} buys {n} more.",
        "{other} gives {who} {n} more.",
        "{who} finds {n} more.",
        "Then {who} gets {n} more.",
        "{who} wins {n} from {other}.",
        "{n} more are added.",
    ),
    ("{who} receives {n} more from {other}.", "{who} picks up {n} more."),
)
_LOSSES = Phrases(
    (
        "{who} gives {n} to {other}.",
        "{who} loses {n}.",
        "{who} sells {n}.",
        "{other} takes {n} of them.",
        "{n} are lost.",
        "{who} gives away {n}.",
    ),
    ("{who} hands {n} to {other}.", "{n} of them go missing."),
)
_GROWTH = Phrases(
    (
        "Then the number of {items} is multiplied by {n}.",
        "Then {who} has {n} times as many.",
        "The number of {items} grows to {n} times as many.",
    ),
    ("After that {who} has {n} times as many.",),
)
_ASKED = Phrases(
    (
        "How many {items} does {who} have now?",
        "How many {items} are left?",
        "How many {items} are there now?",
        "How many does {who} have in the end?",
    ),
    ("What is the number of {items} at the end?", "Now {who} has how many {items}?"),
)
_TOLD = {"+": _GAINS, "-": _LOSSES, "*": _GROWTH}


def story(rng: random.Random, level: int, wording: Wording) -> Problem:
    """A person gains and loses things in `level` sentences."""
    start, operations = draw_run(rng, level, "++--*")
    (who, *others), items = draw_names(rng, 3), rng.choice(ITEMS)

    def tell(phrases: Phrases, n: int) -> str:
        return phrases.draw(rng, wording).format(who=who, other=rng.choice(others), items=items, n=n)

    told = [tell(_TOLD[operation.sign], operation.operand) for operation in operations]
    question = " ".join([tell(_BEGINS, start), *told, tell(_ASKED, 0)])
    return run_problem("story", question, start, operations)


Part = int | str  # a number of the problem by its letter, or the result of an earlier line by its index


@dataclass(frozen=True)
class _Kind:
    """A sort of word problem: its wordings, its numbers, and its lines as (left, sign, right)."""

    phrases: Phrases
    draw: Callable[[random.Random], dict[str, int]]
    plan: tuple[tuple[Part, str, Part], ...]


def _boxes(rng: random.Random) -> dict[str, int]:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return {"a": a, "b": b, "c": rng.randint(1, a * b - 1)}


def _more_boxes(rng: random.Random) -> dict[str, int]:
    return {"a": rng.randint(2, 9), "b": rng.randint(2, 9), "c": rng.randint(1, 18)}


def _change(rng: random.Random) -> dict[str, int]:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return {"a": a, "b": b, "c": rng.randint(a * b, LARGEST)}


def _more(rng: random.Random) -> dict[str, int]:
    return {"a": rng.randint(2, 30), "b": rng.randint(1, 30)}


def _times(rng: random.Random) -> dict[str, int]:
    return {"a": rng.randint(2, 15), "b": rng.randint(2, 5)}


def _ages(rng: random.Random) -> dict[str, int]:
    a = rng.randint(8, 30)
    return {"a": a, "b": rng.randint(1, a - 3), "c": rng.randint(2, 3)}


def _share(rng: random.Random) -> dict[str, int]:
    b, each = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(1, b * each - 1)
    return {"a": b * each - c, "b": b, "c": c}


_KINDS = (
    _Kind(
        Phrases(
            (
                "{who} has {a} boxes with {b} {items} in each. {other} takes {c} {items}. How many are left?",
                "There are {a} bags of {b} {items}. {c} {items} are lost. How many {items} remain?",
                "{who} packs {a} boxes of {b} {items} and then sells {c} {items}. How many {items} are left?",
            ),
            ("Each of {a} boxes holds {b} {items}. {who} removes {c}. How many {items} stay?",),
        ),
        _boxes,
        (("a", "*", "b"), (0, "-", "c")),
    ),
    _Kind(
        Phrases(
            (
                "{who} has {a} boxes with {b} {items} in each and {c} more {items}. How many in all?",
                "A train goes {b} km every hour for {a} hours, then {c} km more. How far does it go?",
                "{who} reads {b} pages a day for {a} days and {c} pages more. How many pages is that?",
            ),
            ("{who} earns {b} coins a day. After {a} days {other} adds {c}. How many coins are there?",),
        ),
        _more_boxes,
        (("a", "*", "b"), (0, "+", "c")),
    ),
    _Kind(
        Phrases(
            (
                "{who} buys {a} {items} at {b} dollars each and pays with {c} dollars. "
                "How much change is there?",
                "One ticket costs {b} dollars. {who} has {c} dollars and buys {a} tickets. "
                "How much money is left?",
            ),
            ("{who} has {c} dollars. {a} {items} cost {b} dollars each. What is left after buying them?",),
        ),
        _change,
        (("a", "*", "b"), ("c", "-", 0)),
    ),
    _Kind(
        Phrases(
            (
                "{who} has {a} {items}. {other} has {b} more than {who}. How many do they have together?",
                "{who} has {a} {items} and {other} has {b} more. How many {items} do both have in all?",
            ),
            ("{other} has {b} {items} more than {who}, who has {a}. How many have the two together?",),
        ),
        _more,
        (("a", "+", "b"), ("a", "+", 0)),
    ),
    _Kind(
        Phrases(
            (
                "{who} has {a} {items}. {other} has {b} times as many. How many do they have together?",
                "{other} has {b} times as many {items} as {who}. {who} has {a}. How many have both in all?",
            ),
            ("{who} owns {a} {items}, {other} {b} times as many. What do the two have together?",),
        ),
        _times,
        (("a", "*", "b"), ("a", "+", 0)),
    ),
    _Kind(
        Phrases(
            (
                "{who} is {a} years old. {other} is {b} years younger. {third} is {c} times as old as "
                "{other}. How old is {third}?",
                "{other} is {b} years younger than {who}, who is {a}. {third} is {c} times as old as "
                "{other}. How old is {third}?",
            ),
            (
                "{who} is {a}. {other} is younger by {b} years, and {third} is {c} times as old as {other}. "
                "What is the age of {third}?",
            ),
        ),
        _ages,
        (("a", "-", "b"), (0, "*", "c")),
    ),
    _Kind(
        Phrases(
            (
                "{who} has {a} {items} and gets {c} more. They are shared equally by {b} children. "
                "How many does each get?",
                "{who} puts {a} {items} and {c} {items} together and shares them equally among {b} friends. "
                "How many {items} does each friend get?",
            ),
            ("{a} {items} and another {c} are split evenly between {b} people. What does each get?",),
        ),
        _share,
        (("a", "+", "c"), (0, "/", "b")),
    ),
)


def word_problem(rng: random.Random, level: int, wording: Wording) -> Problem:
    """Two lines about boxes, money, ages or shares; on level 2 a third line adds to them."""
    kind = rng.choice(_KINDS)
    numbers = kind.draw(rng)
    who, other, third = draw_names(rng, 3)
    question = kind.phrases.draw(rng, wording).format(
        who=who, other=other, third=third, items=rng.choice(ITEMS), **numbers
    )
    plan = list(kind.plan)
    if level == 2:
        numbers["d"] = rng.randint(2, 20)
        plan.append((1, "+", "d"))
        extra = Phrases(
            ("Add {d} to the result.", "What is that plus {d}?", "And with {d} more?"),
            ("Now put {d} on top.",),
        )
        question += " " + extra.draw(rng, wording).format(d=numbers["d"])

    def solver(pen: Pen) -> Trace:
        results: list[int] = []
        lines = []
        for step, (left, sign, right) in enumerate(plan):
            x, y = (numbers[part] if isinstance(part, str) else results[part] for part in (left, right))
            value = x // y if sign == "/" else Operation(sign, y).apply(x)
            results.append(pen.write(step, value, near(value)))
            lines.append(f"{x}{sign}{y}={results[-1]}")
        return Trace(tuple(lines), str(results[-1]))

    # A slip before a division would leave a rest.
    steps = tuple(i for i in range(len(plan)) if all(sign != "/" for _, sign, _ in plan[i + 1 :]))
    key = f"{_KINDS.index(kind)} " + " ".join(map(str, numbers.values()))
    return Problem("word_problem", level, question, key, solver, steps)
