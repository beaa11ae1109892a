"""When two expressions are the same: by value where they are arithmetic, else by algebra under a time limit.

An expression is untrusted text: it is read by its own grammar here, and algebra is done by sympy in a process
of its own (`expressions_algebra`), for Python's way of reading one would run it.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from engine.tasks.extraction import plain_math, whole_number

LONGEST = 200
"""Characters of an expression that is read."""
MOST = 32
"""Expressions that are compared by algebra at once."""
MOST_DIGITS = 60
TIME_LIMIT_S = 3.0
"""Of processor time for the algebra; `START_S` of any time more for what it is done with to be loaded."""
START_S = 10.0

FUNCTIONS = ("sqrt", "sin", "cos", "tan", "log", "ln", "exp")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|" + "|".join(FUNCTIONS) + r"|pi|[a-zA-Z]|\*\*|[-+*/^()]")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "π": "pi", "[": "(", "]": ")", "−": "-"})
_FRACTION = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
_POWER = re.compile(r"\^\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}|√(\d+|\w)")
_BARE = re.compile(r"[\d\s.a-zA-Z+\-*/^()×·÷π√\u2212\\{}$=]+")


@dataclass(frozen=True)
class Compared:
    """Expressions in classes: of each, the one that stands for its class; `note` says what was not done."""

    labels: tuple[str, ...]
    note: str = ""


def is_expression(text: str) -> bool:
    """Whether it is a formula, more than a number and without words around."""
    text = text.strip().rstrip(".").strip("$ ")
    if len(text) > LONGEST or not _BARE.fullmatch(text) or re.search(r"[a-zA-Z]{2}", _unnamed(text)):
        return False
    side = plain_math(text).rpartition("=")[2]
    return _infix(side) is not None and whole_number(side) is None and not re.fullmatch(r"\W*\w?\W*", side)


def value_of(text: str) -> str:
    """An expression by its value where it is arithmetic, else without spacing and dress.

    Of an equation this is its last side; of text around a formula nothing is left out.
    """
    plain = plain_math(text.strip().strip("$")).rpartition("=")[2]
    value = _arithmetic(_infix(plain) or "")
    return plain if value is None else str(value)


def alike(expressions: Sequence[str]) -> Compared:
    """Each expression's class, of which the first of them is the name. Takes seconds at worst."""
    distinct = tuple(dict.fromkeys(one for one in expressions if one))
    readable = tuple(one for one in distinct if _infix(one) is not None)[:MOST]
    if len(readable) < 2 or all(_arithmetic(_infix(one) or "") is not None for one in readable):
        return Compared(tuple(expressions))
    classes, note = _by_algebra(readable)
    return Compared(tuple(classes.get(one, one) for one in expressions), note)


@lru_cache(maxsize=256)
def _by_algebra(expressions: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The class of each, and why there is none."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", Path(__file__).with_name("expressions_algebra.py"), str(TIME_LIMIT_S)],
            input=json.dumps([_infix(one) for one in expressions]),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S + START_S,
            env={},
        )
        if done.returncode == 0:
            first: list[int] = json.loads(done.stdout)
            return {one: expressions[at] for one, at in zip(expressions, first, strict=True)}, ""
    except (OSError, subprocess.TimeoutExpired, ValueError):
        pass
    return {}, f"compared as written, for algebra took longer than {TIME_LIMIT_S:g} s or failed"


def _unnamed(text: str) -> str:
    """Without the names that an expression may have."""
    return re.sub(r"\\[a-zA-Z]+|" + "|".join(FUNCTIONS) + "|pi", " ", text)


def _infix(text: str) -> str | None:
    """An expression as Python writes it, every product with its sign; None where it is none.

    All that can be in it: numbers, single letters, pi, the functions' names, brackets and operators.
    """
    if not text or len(text) > LONGEST:
        return None
    text = text.translate(_SIGNS).replace("\\pi", "pi").replace("\\cdot", "*").replace("\\times", "*")
    text = text.replace("\\div", "/")
    text = re.sub(r"\\(" + "|".join(FUNCTIONS[1:]) + ")", r"\1", text)
    for _ in range(LONGEST):
        text, roots = _ROOT.subn(lambda found: f"sqrt({found[1] or found[2]})", text)
        text, fractions = _FRACTION.subn(r"((\1)/(\2))", text)
        text, powers = _POWER.subn(r"^(\1)", text)
        if not roots + fractions + powers:
            break
    text = text.replace("{", "(").replace("}", ")")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s", "", text):
        return None
    out: list[str] = []
    for token in tokens:
        begins = token == "(" or token[0].isalnum() or token[0] == "."
        if out and begins and (out[-1] == ")" or out[-1][-1].isalnum()) and out[-1] not in FUNCTIONS:
            out.append("*")
        out.append("**" if token == "^" else token)
    infix = "".join(out)
    return infix if _tree(infix) is not None else None


def _tree(infix: str) -> ast.expr | None:
    try:
        return ast.parse(infix, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _arithmetic(infix: str) -> Fraction | None:
    """The value of numbers joined by + - * / and small powers."""
    tree = _tree(infix)
    try:
        return None if tree is None else _computed(tree)
    except (ValueError, ZeroDivisionError, OverflowError, RecursionError):
        return None


def _computed(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(str(node.value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_computed(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _computed(operand)
        case ast.BinOp(left=left, op=op, right=right):
            one, other = _computed(left), _computed(right)
            match op:
                case ast.Add():
                    return one + other
                case ast.Sub():
                    return one - other
                case ast.Mult():
                    return one * other
                case ast.Div():
                    return one / other
                case ast.Pow() if other.denominator == 1 and _digits(one) * abs(other) <= MOST_DIGITS:
                    return Fraction(one ** int(other))
    raise ValueError("not arithmetic")


def _digits(value: Fraction) -> int:
    return max(len(str(abs(value.numerator))), len(str(value.denominator)))
