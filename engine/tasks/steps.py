"""Reads lines of a thought such as `a+b=c` and finds the first that is wrong; knows no model and no torch.

Only what is wrong beyond doubt is called so: a line of any other form is neither right nor wrong.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Verdict = Literal["right", "wrong", "unknown"]

CHECK_PHRASE = "Wait, let me check."
"""What a thought goes on with after a wrong line."""
_LONGEST_LINE = 200
_LONGEST_NUMBER = 12
_OPERATION = r"[+*/×x·-]"
# A label in front ("2.", "Check:", "Step 3:"); a dash is none, it could be a sign.
_LABEL = re.compile(r"(?:[A-Za-z]+(?: \d+)?: |\d+[.)] |\* )")
# What may follow the last number: digits found so far, a remark of the search, a full stop.
_ENDS = re.compile(r"(?::(?P<found>\d+)| left [\d ]+| (?:(?P<aim>\d+) )?(?P<said>yes|no)|\.)?")
_SUM = re.compile(rf"\(*\d+\)*(?:{_OPERATION}\(*\d+\)*)*")
_NAMED = re.compile(r"(?:\d )?[A-Za-z]\w{0,19}(?:[+*/×·-]\w+)*")
_TOKEN = re.compile(rf"\d+|[()]|{_OPERATION}")
_COMPARISON = re.compile(r"(\d+)([<>])(\d+) (yes|no)\.?")


@dataclass(frozen=True)
class WrongLine:
    """The first wrong line of a thought: its index, its text, and the offset in characters of its end."""

    index: int
    line: str
    end: int


def check_line(line: str) -> Verdict:
    """Whether one line of a thought is right, wrong, or of no form that can be checked."""
    line = line.strip()
    if len(line) > _LONGEST_LINE:
        return "unknown"
    if compared := _COMPARISON.fullmatch(line):
        left, sign, right, said = compared.groups()
        if max(len(left), len(right)) > _LONGEST_NUMBER:
            return "unknown"
        holds = int(left) > int(right) if sign == ">" else int(left) < int(right)
        return "right" if holds == (said == "yes") else "wrong"
    label = _LABEL.match(line)
    return _check_equation(line[label.end() :] if label else line)


def first_wrong_line(thought: str) -> WrongLine | None:
    """The first wrong line; a last line without its newline is still being written and is not judged."""
    start = 0
    for index, line in enumerate(thought.split("\n")[:-1]):
        end = start + len(line) + 1
        if check_line(line) == "wrong":
            return WrongLine(index, line, end)
        start = end
    return None


def _check_equation(line: str) -> Verdict:
    """All parts between equals signs, but for names in front, must be sums of whole numbers of one value."""
    parts = re.sub(r" *([+*/×·=-]|(?<=\d )x(?= \d)) *", r"\1", line).split("=")
    result = re.match(r"\d+", parts[-1])
    if len(parts) < 2 or result is None:
        return "unknown"
    ends = _ENDS.fullmatch(parts[-1], result.end())
    if ends is None:
        return "unknown"
    named = 0  # parts with names come first (t=w+12=16+12=28); they are not judged
    while named < len(parts) - 1 and _NAMED.fullmatch(parts[named]):
        named += 1
    sums = parts[named:-1]
    if not all(map(_SUM.fullmatch, sums)) or all(map(str.isdigit, sums)):
        return "unknown"
    values = [_value(part) for part in sums]
    if any(value is None for value in values) or len(result[0]) > _LONGEST_NUMBER:
        return "unknown"
    if any(value != int(result[0]) for value in values):
        return "wrong"
    if ends["aim"] is not None:
        reached = int(ends["aim"][:_LONGEST_NUMBER]) == int(result[0])
        return "right" if reached == (ends["said"] == "yes") else "wrong"
    return "right" if ends["found"] is None else _check_found(result[0], ends["found"])


def _check_found(result: str, found: str) -> Verdict:
    """The digits found so far begin with the whole result, or with its last digit and a carry goes on."""
    return "right" if found.startswith((result, result[-1])) else "wrong"


def _value(text: str) -> int | None:
    """The value of whole numbers joined by + - * /, or None where it is no whole number."""
    tokens = _TOKEN.findall(text)
    if any(len(token) > _LONGEST_NUMBER for token in tokens):
        return None
    reader = _Reader(tokens)
    value = reader.sum()
    if value is None or reader.rest or value.denominator != 1:
        return None
    return int(value)


class _Reader:
    """A recursive-descent reader of sums, products and brackets."""

    def __init__(self, tokens: list[str]) -> None:
        self.rest = tokens[::-1]

    def _next_is(self, signs: str) -> bool:
        return bool(self.rest) and self.rest[-1] in signs

    def sum(self) -> Fraction | None:
        """A sum or difference of products; None where it cannot be read."""
        value = self._product()
        while value is not None and self._next_is("+-"):
            sign, right = self.rest.pop(), self._product()
            if right is None:
                return None
            value = value + right if sign == "+" else value - right
        return value

    def _product(self) -> Fraction | None:
        value = self._factor()
        while value is not None and self._next_is("*/×x·"):
            sign, right = self.rest.pop(), self._factor()
            if right is None or (sign == "/" and right == 0):
                return None
            value = value / right if sign == "/" else value * right
        return value

    def _factor(self) -> Fraction | None:
        if not self.rest:
            return None
        token = self.rest.pop()
        if token.isdigit():
            return Fraction(int(token))
        if token != "(":
            return None
        value = self.sum()
        if value is None or not self._next_is(")"):
            return None
        self.rest.pop()
        return value
