"""GPTQ as AutoGPTQ and GPTQModel write it: codes packed along the inputs, groups in any order of inputs."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.load.formats.codes import grouped, unpack
from engine.load.formats.parts import expect, need
from engine.load.schemes.gptq import Choice, GptqSettings
from engine.nn.quantized import Quantized

_WORD = 32


class Gptq(GptqSettings):
    """`qweight` int32 [in * bits / 32, out], `qzeros` int32 [groups, out * bits / 32]; `scales`
    [groups, out]; `g_idx` int32 [in], the group of each input.

    Version 1 stores every zero less one, modulo 2^bits.
    """

    deciding = frozenset({"g_idx"})

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        words = need(parts, "qweight", torch.int32)
        zeros = need(parts, "qzeros", torch.int32)
        scales = need(parts, "scales")
        groups_of = need(parts, "g_idx", torch.int32, torch.int64, dims=1) if "g_idx" in parts else None
        choice = self._fitting(words, zeros, scales, groups_of)
        codes = unpack(words.t().contiguous(), choice.bits)
        inputs = codes.shape[-1]
        if groups_of is None:
            if self.ordered:
                raise ValueError("it has no g_idx, and desc_act says that its inputs are in an order")
        elif not self.ordered and not groups_of.any():
            groups_of = None  # older files leave it at zero where it says nothing
        of_groups: torch.Tensor | None = None
        if not (zeros.is_meta and self.symmetric):
            of_groups = unpack(zeros, choice.bits).t()
            # in 8 bits and one by one: a stored 15 must not carry into its neighbor
            of_groups = (of_groups + self.stored_less) & (1 << choice.bits) - 1
        group = inputs if choice.group == -1 else choice.group
        return grouped(codes, choice.bits, scales.t(), of_groups, group, groups_of)

    def _fitting(
        self,
        words: torch.Tensor,
        zeros: torch.Tensor,
        scales: torch.Tensor,
        groups_of: torch.Tensor | None,
    ) -> Choice:
        """Which of the bits and groups that the configuration names these tensors are in."""
        outputs = words.shape[1]
        cause: ValueError | None = None
        for choice in self.choices:
            inputs = words.shape[0] * _WORD // choice.bits
            groups = 1 if choice.group == -1 else -(-inputs // choice.group)
            try:
                expect("scales", scales, groups, outputs)
                expect("qzeros", zeros, groups, outputs * choice.bits // _WORD)
                if groups_of is not None:
                    expect("g_idx", groups_of, inputs)
            except ValueError as error:
                cause = cause or error
            else:
                return choice
        assert cause is not None  # there is a choice
        raise cause
