"""compressed-tensors, as llm-compressor writes it: integers packed or not, and float8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.load.formats.codes import grouped, unpack
from engine.load.formats.fp8 import E4M3, scaled, stated_block
from engine.load.formats.settings import expect, group_name, need, shown, stated, stated_group
from engine.nn.quantized import Quantized

_LAYOUTS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")
_WORD = 32


@dataclass(frozen=True)
class _Rule:
    """How some of a model's matrices are kept: `group` inputs share a scale (-1: all), or a `block` does."""

    bits: int
    floating: bool
    symmetric: bool
    group: int
    block: tuple[int, int] | None

    @property
    def name(self) -> str:
        of = f"{self.block[0]}x{self.block[1]}" if self.block else group_name(self.group)
        return f"{'fp8' if self.floating else f'{self.bits}-bit'} {of}"


class CompressedTensors:
    """`weight_packed` int32 [out, in * bits / 32] with `weight_shape`, or `weight` [out, in], int8 or float8.

    `weight_scale` [out, groups]; where they are not symmetric, `weight_zero_point`, packed along the outputs
    or int8 [out, groups]; where inputs are in an order, `weight_g_idx` [in], the group of each.
    Packed integers are stored plus 2^(bits-1). Activations stay as they are.
    """

    marks = frozenset({"weight_packed", "weight_scale"})
    parts = frozenset(
        {
            "weight",
            "weight_packed",
            "weight_shape",
            "weight_scale",
            "weight_zero_point",
            "weight_g_idx",
            "input_scale",
            "input_zero_point",
        }
    )
    deciding = frozenset({"weight_shape", "weight_g_idx"})

    def __init__(self, settings: Mapping[str, Any]) -> None:
        groups = settings.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise ValueError("compressed-tensors without config_groups")
        for group in (settings, *groups.values()):
            layout = group.get("format") if isinstance(group, dict) else None
            if layout is not None and layout not in _LAYOUTS:
                raise ValueError(f"compressed-tensors in the layout {shown(layout)}")
        sparsity = settings.get("sparsity_config")
        if sparsity and (not isinstance(sparsity, dict) or sparsity.get("format") not in (None, "dense")):
            raise ValueError(f"compressed-tensors with the sparsity_config {shown(sparsity)}")
        if (transforms := settings.get("transform_config")) and transforms != {"config_groups": {}}:
            raise ValueError(f"compressed-tensors with the transform_config {shown(transforms)}")
        self._rules = list(dict.fromkeys(_rule(group) for group in groups.values()))
        self.name = f"compressed-tensors {', '.join(rule.name for rule in self._rules)}"

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        cause: ValueError | None = None
        for rule in self._rules:
            try:
                return _read(rule, parts)
            except ValueError as error:
                cause = cause or error
        assert cause is not None  # there is a rule
        raise cause


def _rule(group: object) -> _Rule:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"compressed-tensors with the group {shown(group)}")
    kind, bits = weights.get("type", "int"), stated(weights, "num_bits", 8)
    if (kind, bits) not in (("int", 4), ("int", 8), ("float", 8)):
        raise ValueError(f"compressed-tensors with {bits}-bit {str(kind)[:20]}")
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "tensor")
    if strategy not in ("tensor", "channel", "group", "block"):
        raise ValueError(f"compressed-tensors with scales by {shown(strategy)}")
    return _Rule(
        bits=bits,
        floating=kind == "float",
        symmetric=bool(weights.get("symmetric", True)),
        group=stated_group(weights) if strategy == "group" else -1,
        block=stated_block(weights.get("block_structure")) if strategy == "block" else None,
    )


def _read(rule: _Rule, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
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
