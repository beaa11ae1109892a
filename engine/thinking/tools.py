"""A calculator for models: exact arithmetic on what they write. It evaluates no code.

Only numbers, brackets and + - * / // % ** are read; whatever could grow without end is refused.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

LONGEST = 300
"""Characters of an expression."""
MOST_BITS = 2048
"""Of a numerator or denominator, about 600 digits."""
DIGITS = 12
"""Shown of a number that has no end."""

_PLAIN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_SEPARATORS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TIMES = re.compile(r"(?<=[\d)]) *x *(?=[\d(])")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%(?! *[\d(])")
_ZEROS = re.compile(r"(?<![\d._])0+(?=\d)")

_OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class CannotCalculate(ValueError):
    """It is no arithmetic, or has no value; the text says why, for the model to read."""


def calculate(expression: str) -> Fraction:
    """The exact value of an expression. Raises CannotCalculate."""
    text = _SEPARATORS.sub("", expression.translate(_PLAIN).strip().rstrip("=").strip())
    text = _ZEROS.sub("", _PERCENT.sub(r"(\1/100)", _TIMES.sub("*", text))).replace("^", "**")
    if not text or len(text) > LONGEST:
        raise CannotCalculate("nothing to calculate" if not text else f"longer than {LONGEST} characters")
    try:
        return _value(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, CannotCalculate):
            raise
        raise CannotCalculate("not arithmetic") from None
    except ZeroDivisionError:
        raise CannotCalculate("division by zero") from None


def written(value: Fraction) -> str:
    """A value as people write it: whole, as a decimal that ends, or as a fraction with its first digits."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    if abs(value) > Fraction(10) ** 300:
        return str(value)
    digits = f"{float(value):.{DIGITS}g}"
    return digits if rest == 1 and Fraction(digits) == value else f"{value} ≈ {digits}"


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=bool() | str() | bytes() | complex() | None):
            raise CannotCalculate("not arithmetic")
        case ast.Constant(value=int() | float()):
            return _bounded(_number(ast.get_source_segment(text, node) or ""))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, text), _value(right, text))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            values = _value(left, text), _value(right, text)
            return _bounded(Fraction(_OPERATIONS[type(operation)](*values)))
        case _:
            raise CannotCalculate("not arithmetic")


def _number(literal: str) -> Fraction:
    _, _, exponent = literal.lower().partition("e")
    if len(exponent.lstrip("+-")) > 3:
        raise CannotCalculate("too large")
    return Fraction(literal)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise CannotCalculate("a root has no exact value")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > MOST_BITS:
        raise CannotCalculate("too large")
    return _bounded(Fraction(base ** int(exponent)))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise CannotCalculate("too large")
    return value
