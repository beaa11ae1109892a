"""compressed-tensors' `pack-quantized`, as it is written here: what others read too. Knows no models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from engine.nn.quantized import Quantized, unpack_u4

_WORD = 32


class Rule(NamedTuple):
    """Bits per weight, and inputs per scale."""

    bits: int
    group: int


def rule_of(matrix: Quantized) -> Rule:
    return Rule(4 if matrix.kind == "u4" else 8, matrix.group)


def packed(matrix: Quantized) -> dict[str, torch.Tensor]:
    """The tensors of a symmetric matrix [out, in], by the last parts of their names."""
    codes = unpack_u4(matrix.codes) if matrix.kind == "u4" else matrix.codes.view(torch.uint8) ^ 0x80
    return {
        "weight_packed": pack(codes, rule_of(matrix).bits),
        "weight_scale": matrix.scales.contiguous(),
        "weight_shape": torch.tensor(matrix.shape, dtype=torch.int64),
    }


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """[..., n] uint8 to [..., n * bits / 32] int32, codes one after another from the lowest bits on.

    The last word is filled up with zeros.
    """
    per_word = _WORD // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % per_word))
    bytes_ = codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4
    return bytes_.reshape(-1).view(torch.int32).view(*codes.shape[:-1], -1)


def settings(rules: Mapping[str, Rule], plain: Sequence[str]) -> dict[str, Any]:
    """config.json's `quantization_config` for modules that are quantized by rules, and linears that are not.

    The commonest rule is that of all linears; others name their modules.
    """
    named: dict[Rule, list[str]] = defaultdict(list)
    for name, rule in rules.items():
        named[rule].append(name)
    commonest = max(named, key=lambda rule: len(named[rule]))
    targets = {commonest: ["Linear"], **{rule: names for rule, names in named.items() if rule != commonest}}
    groups: dict[str, dict[str, Any]] = {
        f"group_{number}": {
            "targets": modules,
            "weights": {
                "num_bits": rule.bits,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": rule.group,
                "dynamic": False,
                "actorder": None,
                "block_structure": None,
                "observer": "mse",
                "observer_kwargs": {},
            },
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
        for number, (rule, modules) in enumerate(targets.items())
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": sorted(plain),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
