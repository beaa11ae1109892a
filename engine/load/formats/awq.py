"""AWQ as AutoAWQ writes it for its GEMM kernel: codes packed along outputs, in that kernel's order."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.load.formats.codes import grouped, unpack
from engine.load.formats.parts import expect, need
from engine.load.schemes.awq import BITS, AwqSettings
from engine.nn.quantized import Quantized

_PER_WORD = 8
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
"""Where in its word, from the lowest bits on, each of eight outputs lies."""


class Awq(AwqSettings):
    """`qweight` int32 [in, out / 8], `qzeros` int32 [groups, out / 8] and `scales` [groups, out]."""

    deciding = frozenset[str]()

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        words = need(parts, "qweight", torch.int32)
        packed_zeros = need(parts, "qzeros", torch.int32)
        scales = need(parts, "scales")
        inputs, outputs = words.shape[0], words.shape[1] * _PER_WORD
        group = inputs if self.group == -1 else self.group
        groups = -(-inputs // group)
        expect("scales", scales, groups, outputs)
        expect("qzeros", packed_zeros, groups, words.shape[1])
        codes, zeros = _in_order(words).t().contiguous(), _in_order(packed_zeros).t()
        return grouped(codes, BITS, scales.t(), zeros, group)


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """[..., out / 8] words to [..., out] codes."""
    return unpack(words, BITS).unflatten(-1, (-1, _PER_WORD))[..., _PLACES].flatten(-2)
