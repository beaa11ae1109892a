"""Weights in float8 (e4m3) with a scale per block, as DeepSeek and Qwen publish them, or per matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from engine.load.formats.settings import expect, need, shown
from engine.nn.quantized import Quantized

E4M3 = torch.float8_e4m3fn


class Fp8:
    """`weight` [out, in] and `weight_scale_inv` [out / block, in / block], by which it is multiplied.

    Or `weight_scale`, a single one or one per output. Activations stay as they are: their scales are ignored.
    """

    marks = frozenset({"weight_scale_inv", "weight_scale"})
    parts = frozenset({"weight", "weight_scale_inv", "weight_scale", "input_scale", "activation_scale"})
    deciding = frozenset[str]()

    def __init__(self, settings: Mapping[str, Any]) -> None:
        if str(settings.get("fmt") or "e4m3") not in ("e4m3", "float8_e4m3fn"):
            raise ValueError(f"fp8 in the number format {shown(settings['fmt'])}")
        self._block = stated_block(settings.get("weight_block_size"))
        self.name = f"fp8 {self._block[0]}x{self._block[1]}" if self._block else "fp8 per tensor"

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        name = "weight_scale_inv" if "weight_scale_inv" in parts else "weight_scale"
        return scaled(need(parts, "weight", E4M3), name, need(parts, name, dims=None), self._block)


def stated_block(value: object) -> tuple[int, int] | None:
    """Outputs and inputs that share a scale. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value):
        return value[0], value[1]
    raise ValueError(f"a block of {shown(value)}")


def scaled(weight: torch.Tensor, name: str, scale: torch.Tensor, block: tuple[int, int] | None) -> Quantized:
    """A float8 matrix [out, in] with its scale, `name`: one, one per output, or one per block of both."""
    outputs, inputs = weight.shape
    group = inputs
    if scale.numel() == 1:
        scale = scale.reshape(1, 1).expand(outputs, 1)
    elif block is not None:
        group = min(block[1], inputs)
        expect(name, scale, -(-outputs // block[0]), -(-inputs // group))
        scale = scale.float().repeat_interleave(block[0], 0)[:outputs]
    else:
        expect(name, scale, *((outputs, 1) if scale.dim() > 1 else (outputs,)))
        scale = scale.reshape(outputs, 1)
    scale = scale.float()  # 16 bits have no room for scales of numbers up to 448
    if not scale.is_meta and not bool(torch.isfinite(scale).all()):
        raise ValueError("a scale is not a finite number")
    return Quantized("f8", weight, scale.contiguous(), group)
