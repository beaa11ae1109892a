"""AWQ as AutoAWQ writes it for its GEMM kernel: codes packed along outputs, in that kernel's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from engine.load.formats.codes import grouped, unpack
from engine.load.formats.settings import expect, group_name, need, shown, stated, stated_group
from engine.nn.quantized import Quantized

_BITS = 4
_PER_WORD = 8
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
"""Where in its word, from the lowest bits on, each of eight outputs lies."""


class Awq:
    """`qweight` int32 [in, out / 8], `qzeros` int32 [groups, out / 8] and `scales` [groups, out]."""

    marks = frozenset({"qweight", "qzeros"})
    parts = frozenset({"qweight", "qzeros", "scales"})
    deciding = frozenset[str]()

    def __init__(self, settings: Mapping[str, Any]) -> None:
        layout = settings.get("version") or settings.get("checkpoint_format") or settings.get("format")
        if settings.get("backend") == "llm-awq":
            layout = "llm-awq"
        if str(layout or "gemm").lower() != "gemm":
            raise ValueError(f"awq in the layout {shown(layout)}")
        bits = stated(settings, "bits", stated(settings, "w_bit", _BITS))
        if bits != _BITS:
            raise ValueError(f"awq with {bits} bits")
        key = "q_group_size" if "q_group_size" in settings else "group_size"
        self._group = stated_group({"group_size": settings.get(key, 128)})
        self.name = f"awq {bits}-bit {group_name(self._group)}"

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        words = need(parts, "qweight", torch.int32)
        packed_zeros = need(parts, "qzeros", torch.int32)
        scales = need(parts, "scales")
        inputs, outputs = words.shape[0], words.shape[1] * _PER_WORD
        group = inputs if self._group == -1 else self._group
        groups = -(-inputs // group)
        expect("scales", scales, groups, outputs)
        expect("qzeros", packed_zeros, groups, words.shape[1])
        codes, zeros = _in_order(words).t().contiguous(), _in_order(packed_zeros).t()
        return grouped(codes, _BITS, scales.t(), zeros, group)


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """[..., out / 8] words to [..., out] codes."""
    return unpack(words, _BITS).unflatten(-1, (-1, _PER_WORD))[..., _PLACES].flatten(-2)
