"""Weights in float8 (e4m3) with a scale per block, as DeepSeek and Qwen publish them, or per matrix."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.load.formats.parts import expect, need
from engine.load.schemes.fp8 import Fp8Settings
from engine.nn.quantized import Quantized

E4M3 = torch.float8_e4m3fn


class Fp8(Fp8Settings):
    """`weight` [out, in] and `weight_scale_inv` [out / block, in / block], by which it is multiplied.

    Or `weight_scale`, a single one or one per output. Activations stay as they are: their scales are ignored.
    """

    deciding = frozenset[str]()

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        name = "weight_scale_inv" if "weight_scale_inv" in parts else "weight_scale"
        return scaled(need(parts, "weight", E4M3), name, need(parts, name, dims=None), self.block)


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
