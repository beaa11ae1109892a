"""Days counted on: weekdays, and dates across months."""

import random
import re

from engine.tasks.families.wording import DAYS, Phrases, Wording
from engine.tasks.problem import Pen, Problem, Trace

_MOST_DAYS = (13, 34, 62, 90)  # days counted by level; the last level is never trained on
_LATER = Phrases(
    (
        "Today is {day}. What day is it in {n} days?",
        "If today is {day}, what day is it {n} days from now?",
        "It is {day}. Which day of the week comes {n} days later?",
        "Today is {day}. Which day is it {n} days later?",
        "What day of the week is {n} days after {day}?",
        "What day is {n} days after a {day}?",
        "Now it is {day}. What day will it be after {n} days?",
        "Say today is {day}: which day comes {n} days on?",
        "{n} days after {day}, what day of the week is it?",
        "Start on {day} and go {n} days forward. Which day is that?",
        "Which day will it be {n} days from {day}?",
    ),
    (
        "Suppose it is {day}. What will the day be {n} days from now?",
        "{n} days from {day}: which day of the week is that?",
    ),
)
_EARLIER = Phrases(
    (
        "Today is {day}. What day was it {n} days ago?",
        "If today is {day}, what day was {n} days before?",
        "What day of the week is {n} days before {day}?",
        "Now it is {day}. Which day was it {n} days ago?",
        "{n} days before {day}, what day of the week was it?",
        "It is {day}. Go back {n} days: what day was that?",
        "Say today is {day}. What day was {n} days earlier?",
    ),
    ("It is {day}. Which day was it {n} days earlier?",),
)


def weekday(rng: random.Random, level: int, wording: Wording) -> Problem:
    """The day of the week some days from a given one: weeks are taken away, then days counted."""
    fewest = _MOST_DAYS[level - 2] + 1 if level > 1 else 2
    today, days = rng.randrange(7), rng.randint(fewest, _MOST_DAYS[level - 1])
    forward = 1 if rng.random() < 0.7 else -1

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
            day = pen.write(len(lines), (day + forward) % 7, [(day + 2 * forward) % 7, day])
            lines.append(f"{counted} {DAYS[day]}")
        return Trace(tuple(lines), DAYS[day])

    phrases = _LATER if forward > 0 else _EARLIER
    question = phrases.draw(rng, wording).format(day=DAYS[today], n=days)
    steps = tuple(range(days // 7 + days % 7))
    return Problem("weekday", level, question, f"day {today}{forward * days:+d}", solver, steps)


MONTHS = {
    "March": 31,
    "April": 30,
    "May": 31,
    "June": 30,
    "July": 31,
    "August": 31,
    "September": 30,
    "October": 31,
    "November": 30,
    "December": 31,
}
_DATE = Phrases(
    (
        "What date is {n} days after {day} {month}?",
        "What date is {n} days after {month} {day}?",
        "Today is {day} {month}. What date is it in {n} days?",
        "It is {month} {day}. What is the date {n} days later?",
        "Which date comes {n} days after {day} {month}?",
        "It is {day} {month} now. What date will it be after {n} days?",
        "Start on {day} {month} and go {n} days forward. What date is it?",
        "Say today is {month} {day}. Which date is {n} days from now?",
        "Add {n} days to {day} {month}. What is the date?",
        "{n} days after {month} {day}, what date is it?",
    ),
    (
        "Count {n} days on from {day} {month}. Which date is that?",
        "{day} {month} plus {n} days is what date?",
    ),
)


def _is_date(day: int, month: str, reply: str) -> bool:
    written = re.findall(rf"(\d+)(?:st|nd|rd|th)?(?: of)? ({'|'.join(MONTHS)})", reply)
    written += [(d, m) for m, d in re.findall(rf"({'|'.join(MONTHS)}) (\d+)", reply)]
    return bool(written) and (int(written[-1][0]), written[-1][1]) == (day, month)


def date(rng: random.Random, level: int, wording: Wording) -> Problem:
    """The date some days after one from March on, with `level` - 1 ends of a month in between."""
    names = list(MONTHS)
    first = rng.randrange(len(names) - level + 1)
    begin = rng.randint(1, MONTHS[names[first]])
    before_last = sum(MONTHS[name] for name in names[first : first + level - 1])
    lowest = max(1, before_last + 1 - begin)
    days = rng.randint(lowest, max(lowest, before_last + MONTHS[names[first + level - 1]] - begin))
    if level == 1 and begin + days > MONTHS[names[first]]:
        begin, days = 1, rng.randint(1, 29)

    def solver(pen: Pen) -> Trace:
        month, day = first, pen.write(0, begin + days, [begin + days - 1, begin + days + 1])
        lines = [f"{begin}+{days}={day}", f"{names[month]} {MONTHS[names[month]]}"]
        while day > MONTHS[names[month]] and month + 1 < len(names):
            full = MONTHS[names[month]]
            less = pen.write(len(lines), day - full, [max(1, day - full - 1), day - full + 1])
            month += 1
            lines += [f"{day}-{full}={less}", f"{names[month]} {MONTHS[names[month]]}"]
            day = less
        return Trace(tuple(lines), f"{day} {names[month]}")

    right = solver(Pen())
    steps = tuple(i for i, line in enumerate(right.lines) if "=" in line)
    question = _DATE.draw(rng, wording).format(day=begin, month=names[first], n=days)
    key = f"date {begin} {first} {days}"
    day, month = right.answer.split()
    return Problem(
        "date", level, question, key, solver, steps, lambda reply: _is_date(int(day), month, reply)
    )
