"""Sorts expressions into classes of equal ones with sympy: a program of its own, which may be killed.

    echo '["x+1", "1+x"]' | python -I expressions_algebra.py SECONDS

Prints, of each expression, the index of the first that equals it. Ends by itself after so many seconds of
processor time.
Nothing is evaluated as Python: the syntax tree is read, and only what an expression may hold is known.
"""

import ast
import json
import resource
import signal
import sys
from typing import Any

import sympy

MEMORY = 2 * 1024**3
NAMES = {name: getattr(sympy, name) for name in ("sqrt", "sin", "cos", "tan", "log", "exp", "pi")}
NAMES["ln"] = sympy.log


def read(node: ast.AST) -> Any:
    """The expression of a syntax tree. Raises ValueError."""
    match node:
        case ast.Constant(value=int() | float()):
            return sympy.Rational(str(node.value))
        case ast.Name(id=name):
            return NAMES.get(name) or sympy.Symbol(name)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return -read(operand) if isinstance(node.op, ast.USub) else read(operand)
        case ast.Call(func=ast.Name(id=name), args=[argument]) if name in NAMES and name != "pi":
            return NAMES[name](read(argument))
        case ast.BinOp(left=left, op=op, right=right):
            one, other = read(left), read(right)
            match op:
                case ast.Add():
                    return one + other
                case ast.Sub():
                    return one - other
                case ast.Mult():
                    return one * other
                case ast.Div():
                    return one / other
                case ast.Pow():
                    return one**other
    raise ValueError("no expression")


def classes(texts: list[str]) -> list[int]:
    """Of each expression, the index of the first that equals it."""
    known: list[tuple[int, Any]] = []
    found = []
    for at, text in enumerate(texts):
        try:
            own = read(ast.parse(text, mode="eval").body)
        except (ValueError, TypeError, RecursionError):
            found.append(at)
            continue
        same = next((first for first, other in known if own == other or own.equals(other) is True), at)
        if same == at:
            known.append((at, own))
        found.append(same)
    return found


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))  # unheeded, its signal ends the process
    print(json.dumps(classes(json.load(sys.stdin))))
