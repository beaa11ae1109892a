"""Things put in order and things followed through changes: ranks, heights, days, coins."""

import random

from engine.tasks.families.wording import DAYS, NAMES
from engine.tasks.problem import Pen, Problem, Trace

_ORDINALS = ("", "second ", "third ")
_COMPARISONS = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
)
_SIDES = ("tails", "heads")


def rank(rng: random.Random) -> Problem:
    """The largest or smallest, second or third, of four to seven numbers below 100."""
    numbers = rng.sample(range(1, 100), rng.randint(4, 7))
    place, largest = rng.randrange(3), rng.random() < 0.5
    pick = max if largest else min

    def solver(pen: Pen) -> Trace:
        left, lines = list(numbers), []
        for step in range(place + 1):
            chosen = pen.write(step, pick(left), left)
            left.remove(chosen)
            rest = " left " + " ".join(map(str, left)) if step < place else ""
            lines.append(f"{step + 1}: {chosen}{rest}")
        return Trace(tuple(lines), str(chosen))

    name = _ORDINALS[place] + ("largest" if largest else "smallest")
    listed = ", ".join(map(str, numbers))
    question = rng.choice(
        (
            f"What is the {name} of {listed}?",
            f"Which is the {name} of {listed}?",
            f"Find the {name} of {listed}.",
        )
    )
    key = f"{name} {sorted(numbers)}"
    return Problem("rank", place + 1, question, key, solver, tuple(range(place + 1)))


def order(rng: random.Random) -> Problem:
    """Three to five people compared in pairs, in any order; one place in the line is asked for."""
    count = rng.randint(3, 5)
    line = rng.sample(NAMES, count)
    comparative, first, last = rng.choice(_COMPARISONS)
    place = rng.choice([0, count - 1, *range(1, min(3, count - 1))])
    name = last if place == count - 1 else _ORDINALS[place] + first

    def solver(pen: Pen) -> Trace:
        swapped = [[*line[:i], line[i + 1], line[i], *line[i + 2 :]] for i in range(count - 1)]
        found = pen.write(0, line, swapped)
        return Trace((" > ".join(found), f"{name} {found[place]}"), found[place])

    pairs = [f"{line[i]} is {comparative} than {line[i + 1]}." for i in range(count - 1)]
    rng.shuffle(pairs)
    question = " ".join(pairs) + f" Who is the {name}?"
    return Problem("order", count, question, f"{line} {place}", solver, (0,))


def weekday(rng: random.Random) -> Problem:
    """The day of the week some days from a given one: weeks are taken away, then days counted on."""
    today, days = rng.randrange(7), rng.randint(2, 60)

    def solver(pen: Pen) -> Trace:
        lines: list[str] = []
        left, day = days, today
        while left >= 7:
            less = pen.write(len(lines), left - 7, [max(0, left - 8), left - 6])
            lines.append(f"{left}-7={less}")
            left = less
        if left == 0:
            lines.append(f"0 {DAYS[day]}")
        for counted in range(1, left + 1):
            day = pen.write(len(lines), (day + 1) % 7, [(day + 2) % 7, day])
            lines.append(f"{counted} {DAYS[day]}")
        return Trace(tuple(lines), DAYS[day])

    question = rng.choice(
        (
            "Today is {day}. What day is it in {n} days?",
            "If today is {day}, what day is it {n} days from now?",
            "It is {day}. Which day of the week comes {n} days later?",
        )
    ).format(day=DAYS[today], n=days)
    steps = tuple(range(days // 7 + days % 7))
    return Problem("weekday", days // 7, question, f"day {today}+{days}", solver, steps)


def coin(rng: random.Random) -> Problem:
    """A coin that two to nine people flip or leave as it is."""
    count = rng.randint(2, 9)
    start, people = rng.randrange(2), rng.sample(NAMES, count)
    flips = [int(rng.random() < 0.6) for _ in people]

    def solver(pen: Pen) -> Trace:
        side, lines = start, []
        for step, (person, flip) in enumerate(zip(people, flips, strict=True)):
            side = pen.write(step, side ^ flip, (0, 1))
            lines.append(f"{person} {'flips' if flip else 'no'} {_SIDES[side]}")
        return Trace(tuple(lines), _SIDES[side])

    told = [f"{p} flips it." if f else f"{p} does not flip it." for p, f in zip(people, flips, strict=True)]
    asked = rng.choice(("What does it show?", "Which side is up now?"))
    question = f"A coin shows {_SIDES[start]}. " + " ".join(told) + " " + asked
    return Problem("coin", count, question, f"{start} {flips}", solver, tuple(range(count)))
