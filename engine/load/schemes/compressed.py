"""compressed-tensors as llm-compressor states it. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.load.schemes.fp8 import held_float8
from engine.load.schemes.values import group_name, held_bytes, shown, stated, stated_block, stated_group
from engine.load.weights import Stored

_LAYOUTS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")


@dataclass(frozen=True)
class Rule:
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


class CompressedSettings:
    """Integers packed or not, and float8, by `rules`. Activations stay as they are."""

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
        self.rules = list(dict.fromkeys(_rule(group) for group in groups.values()))
        self.name = f"compressed-tensors {', '.join(rule.name for rule in self.rules)}"

    def held(self, stored: Mapping[str, Stored]) -> int:
        if "weight_packed" in stored:
            outputs, words = stored["weight_packed"].shape
            bits = min(rule.bits for rule in self.rules)
            return held_bytes(outputs, words * 32 // bits, bits, *_scales(stored))
        weight = stored["weight"]
        if weight.dtype != "I8":
            return held_float8(weight, next((rule.block for rule in self.rules if rule.block), None))
        outputs, inputs = weight.shape
        return held_bytes(outputs, inputs, 8, *_scales(stored))


def _scales(stored: Mapping[str, Stored]) -> tuple[Stored, bool, bool]:
    return stored["weight_scale"], "weight_zero_point" in stored, "weight_g_idx" in stored


def _rule(group: object) -> Rule:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"compressed-tensors with the group {shown(group)}")
    kind, bits = weights.get("type", "int"), stated(weights, "num_bits", 8)
    if (kind, bits) not in (("int", 4), ("int", 8), ("float", 8)):
        raise ValueError(f"compressed-tensors with {bits}-bit {str(kind)[:20]}")
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "tensor")
    if strategy not in ("tensor", "channel", "group", "block"):
        raise ValueError(f"compressed-tensors with scales by {shown(strategy)}")
    return Rule(
        bits=bits,
        floating=kind == "float",
        symmetric=bool(weights.get("symmetric", True)),
        group=stated_group(weights) if strategy == "group" else -1,
        block=stated_block(weights.get("block_structure")) if strategy == "block" else None,
    )
