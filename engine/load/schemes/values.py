"""What a config.json's `quantization_config` states, checked. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.load.weights import Stored


def stated(settings: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number. Raises ValueError."""
    value = settings.get(key, default)
    if type(value) is not int:
        raise ValueError(f"{key} {shown(value)}")
    return value


def stated_group(settings: Mapping[str, Any]) -> int:
    """Inputs that share a scale; -1 for all. Raises ValueError."""
    group = stated(settings, "group_size", -1)
    if group != -1 and group < 1:
        raise ValueError(f"group_size {group}")
    return group


def stated_block(value: object) -> tuple[int, int] | None:
    """Outputs and inputs that share a scale. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value):
        return value[0], value[1]
    raise ValueError(f"a block of {shown(value)}")


def held_bytes(
    outputs: int, inputs: int, bits: int, scales: Stored, zeros: bool, ordered: bool = False
) -> int:
    """What a matrix of codes takes in memory: `zeros` are as many as scales, and an order is of its inputs.

    Codes of up to 4 bits take 4 where the inputs are a multiple of 32, and else 8, as do all others.
    """
    order = 8 * inputs if ordered else 0
    codes = outputs * inputs // (2 if bits <= 4 and inputs % 32 == 0 else 1)
    return order + codes + scales.elements * (4 if scales.dtype == "F32" else 2) * (2 if zeros else 1)


def shown(value: object) -> str:
    """Something out of a file, in a message."""
    return repr(value)[:60]


def group_name(group: int) -> str:
    """How the inputs that share a scale are spoken of: `g128`."""
    return "per channel" if group == -1 else f"g{group}"
