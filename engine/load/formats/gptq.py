"""GPTQ as AutoGPTQ and GPTQModel write it: codes packed along the inputs, groups in any order of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.load.formats.codes import grouped, unpack
from engine.load.formats.settings import expect, group_name, need, shown, stated, stated_group
from engine.nn.quantized import Quantized

_BITS = (2, 3, 4, 8)
_WORD = 32


@dataclass(frozen=True)
class _Choice:
    """Bits per weight, and how many inputs share a scale (-1: all)."""

    bits: int
    group: int


class Gptq:
    """`qweight` int32 [in * bits / 32, out], `qzeros` int32 [groups, out * bits / 32]; `scales`
    [groups, out]; `g_idx` int32 [in], the group of each input.

    Version 1 stores every zero less one, modulo 2^bits.
    """

    marks = frozenset({"qweight", "qzeros"})
    parts = frozenset({"qweight", "qzeros", "scales", "g_idx"})
    deciding = frozenset({"g_idx"})

    def __init__(self, settings: Mapping[str, Any]) -> None:
        layout = settings.get("checkpoint_format") or "gptq"
        if settings.get("is_marlin_format"):
            layout = "marlin"
        if layout not in ("gptq", "gptq_v2"):
            raise ValueError(f"gptq in the layout {shown(layout)}")
        self._stored_less = 1 if layout == "gptq" else 0
        self._symmetric = settings.get("sym") is True
        self._ordered = bool(settings.get("desc_act")) and not settings.get("static_groups")
        first = _choice(settings)
        self._choices = [first, *_exceptions(settings, first)]
        mixed = ", mixed" if len(set(self._choices)) > 1 else ""
        self.name = f"gptq {first.bits}-bit {group_name(first.group)}{mixed}"

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        words = need(parts, "qweight", torch.int32)
        zeros = need(parts, "qzeros", torch.int32)
        scales = need(parts, "scales")
        groups_of = need(parts, "g_idx", torch.int32, torch.int64, dims=1) if "g_idx" in parts else None
        choice = self._fitting(words, zeros, scales, groups_of)
        codes = unpack(words.t().contiguous(), choice.bits)
        inputs = codes.shape[-1]
        if groups_of is None:
            if self._ordered:
                raise ValueError("it has no g_idx, and desc_act says that its inputs are in an order")
        elif not self._ordered and not groups_of.any():
            groups_of = None  # older files leave it at zero where it says nothing
        of_groups: torch.Tensor | None = None
        if not (zeros.is_meta and self._symmetric):
            of_groups = unpack(zeros, choice.bits).t()
            # in 8 bits and one by one: a stored 15 must not carry into its neighbor
            of_groups = (of_groups + self._stored_less) & (1 << choice.bits) - 1
        group = inputs if choice.group == -1 else choice.group
        return grouped(codes, choice.bits, scales.t(), of_groups, group, groups_of)

    def _fitting(
        self,
        words: torch.Tensor,
        zeros: torch.Tensor,
        scales: torch.Tensor,
        groups_of: torch.Tensor | None,
    ) -> _Choice:
        """Which of the bits and groups that the configuration names these tensors are in."""
        outputs = words.shape[1]
        cause: ValueError | None = None
        for choice in self._choices:
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


def _choice(settings: Mapping[str, Any], of: _Choice | None = None) -> _Choice:
    bits = stated(settings, "bits", of.bits if of else 0)
    if bits not in _BITS:
        raise ValueError(f"gptq with {bits} bits")
    return _Choice(bits, of.group if of and "group_size" not in settings else stated_group(settings))


def _exceptions(settings: Mapping[str, Any], first: _Choice) -> list[_Choice]:
    """What `dynamic` chooses for some modules. Which those are, the shapes of their tensors tell."""
    dynamic = settings.get("dynamic") or {}
    if not isinstance(dynamic, dict) or not all(isinstance(change, dict) for change in dynamic.values()):
        raise ValueError(f"dynamic {shown(dynamic)}")
    return [_choice(change, first) for name, change in dynamic.items() if not str(name).startswith("-")]
