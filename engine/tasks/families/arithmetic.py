"""Column arithmetic: sums, differences and products, digit by digit from the right.

A line of thought ends in the digits found so far ("4+7+1=12:22"), so that the answer is a copy of them.
"""

import random

from engine.tasks.families.wording import Wording, ask_value
from engine.tasks.problem import Pen, Problem, Trace

# Digits of both factors of a long product by level; the last pair is never trained on.
LONG_FACTORS = ((2, 2), (3, 2), (3, 3), (4, 4), (4, 3))


def _number(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def addition(rng: random.Random, level: int, wording: Wording) -> Problem:
    """The sum of a number of `level` digits and one of at most as many."""
    a, b = _number(rng, level), _number(rng, rng.randint(1, level))
    if rng.random() < 0.5:
        a, b = b, a

    def solver(pen: Pen) -> Trace:
        lines, carry, found = [], 0, ""
        for i in range(level):
            x, y = a // 10**i % 10, b // 10**i % 10
            total = x + y + carry
            total = pen.write(i, total, [max(0, total - 1), min(19, total + 1)])
            written = f"{x}+{y}" + (f"+{carry}" if i else "")
            found = (str(total) if i == level - 1 else str(total % 10)) + found
            carry = total // 10
            lines.append(f"{written}={total}:{found}")
        return Trace(tuple(lines), found)

    low, high = sorted((a, b))
    question = ask_value(rng, f"{a} + {b}", wording)
    return Problem("addition", level, question, f"{low}+{high}", solver, tuple(range(level)))


def subtraction(rng: random.Random, level: int, wording: Wording) -> Problem:
    """The difference, never negative, of a number of `level` digits and one of at most as many."""
    a, b = _number(rng, level), _number(rng, rng.randint(1, level))
    if b > a:
        a, b = b, a

    def solver(pen: Pen) -> Trace:
        lines, borrow, found = [], 0, ""
        for i in range(level):
            x, y = a // 10**i % 10, b // 10**i % 10
            written = f"{x}-{y}" + (f"-{borrow}" if i else "")
            difference = x - y - borrow
            borrow = int(difference < 0)
            if borrow:
                difference += 10
                written += "+10"
            difference = pen.write(i, difference, [(difference - 1) % 10, (difference + 1) % 10])
            found = str(difference) + found
            lines.append(f"{written}={difference}:{found}")
        return Trace(tuple(lines), str(int(found)))

    question = ask_value(rng, f"{a} - {b}", wording)
    return Problem("subtraction", level, question, f"{a}-{b}", solver, tuple(range(level)))


def _multiply_row(
    pen: Pen, number: int, digit: int, above: str, below: str, lines: list[str], added: bool
) -> str:
    """Add lines for `number` * `digit` + `above`; the digits found stand before `below`."""
    places, carry, found = len(str(number)), 0, below
    for i in range(places):
        x = number // 10**i % 10
        y = int(above[-1 - i]) if i < len(above) else 0
        product = x * digit + y + carry
        nearby = [max(0, min(99, product + offset)) for offset in (-10, -1, 1, 10)]
        product = pen.write(len(lines), product, nearby)
        written = f"{x}*{digit}" + (f"+{y}" if added else "") + (f"+{carry}" if i else "")
        found = (str(product) if i == places - 1 else str(product % 10)) + found
        carry = product // 10
        lines.append(f"{written}={product}:{found}")
    return found


def multiplication(rng: random.Random, level: int, wording: Wording) -> Problem:
    """The product of a number of `level` digits and one digit."""
    a, b = _number(rng, level), rng.randint(2, 9)

    def solver(pen: Pen) -> Trace:
        lines: list[str] = []
        found = _multiply_row(pen, a, b, "", "", lines, added=False)
        return Trace(tuple(lines), found)

    low, high = sorted((a, b))
    question = ask_value(rng, f"{b} * {a}" if rng.random() < 0.25 else f"{a} * {b}", wording)
    return Problem("multiplication", level, question, f"{low}*{high}", solver, tuple(range(level)))


def long_multiplication(rng: random.Random, level: int, wording: Wording) -> Problem:
    """A product of two numbers of two to four digits, row by row.

    A row multiplies by one digit and adds the result so far, less the digits that are final already; its
    first line says so ("23*4+11").
    """
    digits = LONG_FACTORS[level - 1]
    a, b = _number(rng, digits[0]), _number(rng, digits[1])

    def solver(pen: Pen) -> Trace:
        lines: list[str] = []
        found = ""
        for j in range(digits[1]):
            digit = b // 10**j % 10
            split = len(found) - j
            above, below = found[:split], found[split:]
            if j:
                lines.append(f"{a}*{digit}+{above}")
            found = _multiply_row(pen, a, digit, above, below, lines, added=j > 0)
        return Trace(tuple(lines), found)

    rows = digits[0] + 1
    steps = tuple(i for i in range(digits[1] * rows - 1) if (i + 1) % rows)
    low, high = sorted((a, b))
    question = ask_value(rng, f"{a} * {b}", wording)
    return Problem("long_multiplication", level, question, f"{low}*{high}", solver, steps)
