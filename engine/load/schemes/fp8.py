"""float8 as DeepSeek and Qwen state it. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.load.schemes.values import shown, stated_block
from engine.load.weights import Stored


class Fp8Settings:
    """e4m3 with a scale per `block` of outputs and inputs, or per matrix."""

    marks = frozenset({"weight_scale_inv", "weight_scale"})
    parts = frozenset({"weight", "weight_scale_inv", "weight_scale", "input_scale", "activation_scale"})

    def __init__(self, settings: Mapping[str, Any]) -> None:
        if str(settings.get("fmt") or "e4m3") not in ("e4m3", "float8_e4m3fn"):
            raise ValueError(f"fp8 in the number format {shown(settings['fmt'])}")
        self.block = stated_block(settings.get("weight_block_size"))
        self.name = f"fp8 {self.block[0]}x{self.block[1]}" if self.block else "fp8 per tensor"

    def held(self, stored: Mapping[str, Stored]) -> int:
        return held_float8(stored["weight"], self.block)


def held_float8(weight: Stored, block: tuple[int, int] | None) -> int:
    """What a float8 matrix takes in memory: its scales are in float32, by output, or by blocks of inputs."""
    outputs, inputs = weight.shape
    return weight.elements + 4 * outputs * (-(-inputs // block[1]) if block else 1)
