"""Word problems: things gained and lost, boxes, prices, ages, shares."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from engine.tasks.families.running import LARGEST, Operation, draw_run, near, run_problem
from engine.tasks.families.wording import ITEMS, Phrases, Wording, draw_names
from engine.tasks.problem import Pen, Problem, Trace

_BEGINS = Phrases(
    (
        "{who} has {n} {items}.",
        "{who} has {n} {items}.",
        "{who} starts with {n} {items}.",
        "There are {n} {items} in {who}'s bag.",
        "{who} holds {n} {items}.",
        "{who} got {n} {items} as a present.",
        "In the morning {who} has {n} {items}.",
        "{who} keeps {n} {items} at home.",
        "{who} begins with {n} {items}.",
        "To begin with, {who} has {n} {items}.",
        "{who} {verb}s {n} {items}.",
        "In the beginning {who} {verb}s {n} {items}.",
    ),
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
        "{who} collects {n} more.",
        "{who} earns {n} more.",
        "{other} sends {who} {n} more.",
        "{who} takes {n} from {other}.",
        "{who} gets {n} more from {other}.",
        "{who} borrows {n} from {other}.",
        "{other} brings {n} more.",
        "{who} is given {n} more by {other}.",
        "{who} makes {n} more.",
        "{who} adds {n} more.",
        "{n} more come from {other}.",
        "{who} {verb}s {n} more.",
        "{who} {verb}s {n} more from {other}.",
        "{who} {verb}s up {n} more.",
        "{other} {verb}s {who} {n} more.",
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
        "{who} passes {n} to {other}.",
        "{who} sends {n} to {other}.",
        "{who} shows {n} to {other} and never gets them back.",
        "{who} throws away {n}.",
        "{who} breaks {n} of them.",
        "{n} of them break.",
        "{n} of them are stolen.",
        "{n} disappear.",
        "{who} lends {n} to {other}.",
        "{other} borrows {n} of them.",
        "{who} uses {n}.",
        "{n} of them fall into a river.",
        "{who} leaves {n} with {other}.",
        "{who} {verb}s {n} to {other}.",
        "{who} {verb}s {n} of them.",
        "{n} of them {verb}.",
        "{n} of them {verb} away.",
        "{n} of them are {verb}.",
    ),
    ("{who} hands {n} to {other}.", "{n} of them go missing."),
)
_GROWTH = Phrases(
    (
        "Then the number of {items} is multiplied by {n}.",
        "Then {who} has {n} times as many.",
        "The number of {items} grows to {n} times as many.",
        "Soon {who} has {n} times as many.",
        "Later there are {n} times as many {items}.",
        "The {items} become {n} times as many.",
        "A day later {who} has {n} times as many.",
    ),
    ("After that {who} has {n} times as many.",),
)
_ASKED = Phrases(
    (
        "How many {items} does {who} have now?",
        "How many {items} are left?",
        "How many {items} are there now?",
        "How many does {who} have in the end?",
        "How many {items} remain?",
        "What number of {items} is left?",
        "Now how many {items} are there?",
        "Count the {items}: how many does {who} have?",
        "{who} has how many {items} left?",
        "And now, how many {items} does {who} have?",
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
                "There are {a} boxes with {b} {items} each. {who} takes {c} of the {items}. "
                "How many stay there?",
                "{a} bags of {b} {items} are on the table. {who} eats {c}. How many {items} are there now?",
                "In {a} boxes of {b} {items}, {c} {items} are broken. How many are good?",
                "{who} carries {a} bags with {b} {items} in each, and drops {c}. How many {items} remain?",
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
                "{who} saves {b} dollars a week. In {a} weeks that grows, and {other} gives {c} more. "
                "How many dollars are there?",
                "{who} bakes {b} cakes a day. After {a} days {who} bakes {c} more. How many cakes is that?",
                "A worker makes {b} {items} every day for {a} days, then {c} {items} more. How many in all?",
                "{who} plants {a} rows of {b} trees and {c} more trees. How many trees are there?",
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
                "{who} pays with {c} dollars for {a} {items} that cost {b} dollars each. What is the change?",
                "{who} has {c} dollars and spends {b} dollars on each of {a} days. How much is left?",
                "With {c} dollars {who} buys {a} {items} for {b} dollars each. How many dollars remain?",
                "{c} dollars are in the box. {who} takes out {b} dollars {a} times. What is left in it?",
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
                "{who} found {a} {items}. {other} found {b} more than {who}. "
                "How many did they find together?",
                "{other} has {b} more {items} than {who}. {who} has {a}. How many are there in all?",
                "{who} owns {a} {items}, and {other} owns {b} more than that. How many do the two own?",
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
                "{who} found {a} {items}. {other} found {b} times as many. How many did the two find?",
                "{who} keeps {a} {items} and {other} keeps {b} times as many. How many is that together?",
                "{other} owns {b} times as many {items} as {who}, who has {a}. How many are there in all?",
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
                "{who} is {a} years old and {other} is {b} years younger. {third} is {c} times as old as "
                "{other}. What age is {third}?",
                "{who} is {a}, {other} is {b} years younger, {third} {c} times as old as {other}. "
                "Tell me how old {third} is.",
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
                "{a} {items} and {c} more {items} are shared equally among {b} people. How many has each?",
                "{who} finds {a} {items} and {other} {c}. They split all of them evenly "
                "between {b} children. How many for each?",
                "There are {a} {items} here and {c} there. {b} friends share them. What does each one have?",
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
            (
                "Add {d} to the result.",
                "What is that plus {d}?",
                "And with {d} more?",
                "Then add {d} to it.",
                "Put {d} to that.",
                "And {d} on top of it?",
            ),
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
