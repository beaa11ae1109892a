"""How a person says in what a model's weights are kept: `int4,down_proj=int8`. Knows no tensors."""

from __future__ import annotations

from typing import NamedTuple

KINDS = ("none", "int8", "int4", "fp8")
AUTO = "auto"


class Quant(NamedTuple):
    """`base` for all, one of KINDS or auto; for parameters whose path matches a pattern, another of KINDS."""

    base: str
    exceptions: tuple[tuple[str, str], ...] = ()


def parse_quant(text: str) -> Quant:
    """Raises ValueError with one line that names what is wrong and what is allowed."""
    base, *rest = (part.strip() for part in text.split(","))
    if base not in (*KINDS, AUTO):
        raise ValueError(f"weights cannot be kept in {base[:40]!r}: use {', '.join(KINDS)} or {AUTO}")
    exceptions = []
    for part in rest:
        pattern, _, kind = part.partition("=")
        if not pattern or kind not in KINDS:
            raise ValueError(f"{part[:60]!r} is no exception: use PATTERN=KIND, as in int4,down_proj=int8")
        exceptions.append((pattern, kind))
    return Quant(base, tuple(exceptions))
