"""compressed-tensors, as llm-compressor writes it: integers packed or not, and float8."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.load.formats.codes import grouped, unpack
from engine.load.formats.fp8 import E4M3, scaled
from engine.load.formats.parts import expect, need
from engine.load.schemes.compressed import CompressedSettings, Rule
from engine.nn.quantized import Quantized

_WORD = 32


class CompressedTensors(CompressedSettings):
    """`weight_packed` int32 [out, in * bits / 32] with `weight_shape`, or `weight` [out, in], int8 or float8.

    `weight_scale` [out, groups]; where they are not symmetric, `weight_zero_point`, packed along the outputs
    or int8 [out, groups]; where inputs are in an order, `weight_g_idx` [in], the group of each.
    Packed integers are stored plus 2^(bits-1). Activations stay as they are.
    """

    deciding = frozenset({"weight_shape", "weight_g_idx"})

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        cause: ValueError | None = None
        for rule in self.rules:
            try:
                return _read(rule, parts)
            except ValueError as error:
                cause = cause or error
        assert cause is not None  # there is a rule
        raise cause


def _read(rule: Rule, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
    """Raises ValueError where the tensors are not kept by this rule."""
    scale = need(parts, "weight_scale", dims=None)
    if rule.floating:
        block = rule.block if rule.group == -1 else (1, rule.group)
        return scaled(need(parts, "weight", E4M3), "weight_scale", scale, block)
    if "weight_packed" in parts:
        bits = rule.bits
        words = need(parts, "weight_packed", torch.int32)
        outputs, inputs = need(parts, "weight_shape", torch.int64, torch.int32, dims=1).tolist()
        expect("weight_packed", words, outputs, -(-inputs * bits // _WORD))
        codes = unpack(words, bits)[:, :inputs]
    else:
        bits = 8
        weight = need(parts, "weight", torch.int8)
        outputs, inputs = weight.shape
        codes = _unsigned(weight, bits)
    group = inputs if rule.group == -1 else rule.group
    groups = -(-inputs // group)
    zeros = None
    if "weight_zero_point" in parts or not rule.symmetric:
        zeros = _zeros(parts, bits, outputs, groups)
    groups_of = parts.get("weight_g_idx")
    if groups_of is not None:
        expect("weight_g_idx", groups_of, inputs)
        if bool((groups_of == -1).all()):  # was never set
            groups_of = None
    return grouped(codes, bits, _spread("weight_scale", scale, outputs, groups), zeros, group, groups_of)


def _zeros(parts: Mapping[str, torch.Tensor], bits: int, outputs: int, groups: int) -> torch.Tensor:
    """[out, groups], 0 to 2^bits - 1."""
    name = "weight_zero_point"
    if name in parts and parts[name].dtype == torch.int8:
        return _unsigned(_spread(name, parts[name], outputs, groups), bits)
    words = need(parts, name, torch.int32)
    expect(name, words, -(-outputs * bits // _WORD), groups)
    return unpack(words.t().contiguous(), bits)[:, :outputs].t()


def _spread(name: str, part: torch.Tensor, outputs: int, groups: int) -> torch.Tensor:
    """A value per group, one per output or a single one, as [out, groups]."""
    if part.numel() == 1 and groups == 1:
        return part.reshape(1, 1).expand(outputs, 1)
    if part.dim() == 1 and groups == 1:
        part = part[:, None]
    expect(name, part, outputs, groups)
    return part


def _unsigned(signed: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 to uint8, by adding 2^(bits-1)."""
    return (signed.to(torch.int16) + (1 << bits - 1)).to(torch.uint8)
