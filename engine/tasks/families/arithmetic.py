"""Column arithmetic: addition, subtraction and multiplication, digit by digit from the right.

A line of thought ends in the digits found so far ("4+7+1=12:22"), so that the answer is a copy of them.
"""

import random

from engine.tasks.families.wording import ask_value
from engine.tasks.problem import Pen, Problem, Trace


def _number(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def addition(rng: random.Random) -> Problem:
    """The sum of two numbers of up to four digits."""
    digits = rng.randint(1, 4)
    a, b = _number(rng, digits), _number(rng, rng.randint(1, digits))
    if rng.random() < 0.5:
        a, b = b, a

    def solver(pen: Pen) -> Trace:
        lines, carry, found = [], 0, ""
        for i in range(digits):
            x, y = a // 10**i % 10, b // 10**i % 10
            total = x + y + carry
            total = pen.write(i, total, [max(0, total - 1), min(19, total + 1)])
            written = f"{x}+{y}" + (f"+{carry}" if i else "")
            found = (str(total) if i == digits - 1 else str(total % 10)) + found
            carry = total // 10
            lines.append(f"{written}={total}:{found}")
        return Trace(tuple(lines), found)

    low, high = sorted((a, b))
    question = ask_value(rng, f"{a} + {b}")
    return Problem("addition", digits, question, f"{low}+{high}", solver, tuple(range(digits)))


def subtraction(rng: random.Random) -> Problem:
    """The difference, never negative, of two numbers of up to four digits."""
    digits = rng.randint(1, 4)
    a, b = _number(rng, digits), _number(rng, rng.randint(1, digits))
    if b > a:
        a, b = b, a

    def solver(pen: Pen) -> Trace:
        lines, borrow, found = [], 0, ""
        for i in range(digits):
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

    question = ask_value(rng, f"{a} - {b}")
    return Problem("subtraction", digits, question, f"{a}-{b}", solver, tuple(range(digits)))


def multiplication(rng: random.Random) -> Problem:
    """The product of a number of up to four digits and one digit."""
    digits = rng.randint(1, 4)
    a, b = _number(rng, digits), rng.randint(2, 9)

    def solver(pen: Pen) -> Trace:
        lines, carry, found = [], 0, ""
        for i in range(digits):
            x = a // 10**i % 10
            product = x * b + carry
            nearby = [max(0, min(89, product + offset)) for offset in (-10, -1, 1, 10)]
            product = pen.write(i, product, nearby)
            written = f"{x}*{b}" + (f"+{carry}" if i else "")
            found = (str(product) if i == digits - 1 else str(product % 10)) + found
            carry = product // 10
            lines.append(f"{written}={product}:{found}")
        return Trace(tuple(lines), found)

    low, high = sorted((a, b))
    question = ask_value(rng, f"{b} * {a}" if rng.random() < 0.25 else f"{a} * {b}")
    return Problem("multiplication", digits, question, f"{low}*{high}", solver, tuple(range(digits)))
