"""GPTQ as AutoGPTQ and GPTQModel state it. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.load.schemes.values import group_name, held_bytes, shown, stated, stated_group
from engine.load.weights import Stored

_BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Choice:
    """Bits per weight, and how many inputs share a scale (-1: all)."""

    bits: int
    group: int


class GptqSettings:
    """`choices`, the first of them the commonest; version 1 stores zeros `stored_less` by one.

    `ordered`: the inputs of a group are not neighbors, and `g_idx` has to say which is of which.
    """

    marks = frozenset({"qweight", "qzeros"})
    parts = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    def __init__(self, settings: Mapping[str, Any]) -> None:
        layout = settings.get("checkpoint_format") or "gptq"
        if settings.get("is_marlin_format"):
            layout = "marlin"
        if layout not in ("gptq", "gptq_v2"):
            raise ValueError(f"gptq in the layout {shown(layout)}")
        self.stored_less = 1 if layout == "gptq" else 0
        self.symmetric = settings.get("sym") is True
        self.ordered = bool(settings.get("desc_act")) and not settings.get("static_groups")
        first = _choice(settings)
        self.choices = [first, *_exceptions(settings, first)]
        mixed = ", mixed" if len(set(self.choices)) > 1 else ""
        self.name = f"gptq {first.bits}-bit {group_name(first.group)}{mixed}"

    def held(self, stored: Mapping[str, Stored]) -> int:
        words, outputs = stored["qweight"].shape
        inputs = stored["g_idx"].elements if "g_idx" in stored else words * 32 // self.choices[0].bits
        return held_bytes(
            outputs, inputs, words * 32 // inputs, stored["scales"], not self.symmetric, self.ordered
        )


def _choice(settings: Mapping[str, Any], of: Choice | None = None) -> Choice:
    bits = stated(settings, "bits", of.bits if of else 0)
    if bits not in _BITS:
        raise ValueError(f"gptq with {bits} bits")
    return Choice(bits, of.group if of and "group_size" not in settings else stated_group(settings))


def _exceptions(settings: Mapping[str, Any], first: Choice) -> list[Choice]:
    """What `dynamic` chooses for some modules. Which those are, the shapes of their tensors tell."""
    dynamic = settings.get("dynamic") or {}
    if not isinstance(dynamic, dict) or not all(isinstance(change, dict) for change in dynamic.values()):
        raise ValueError(f"dynamic {shown(dynamic)}")
    return [_choice(change, first) for name, change in dynamic.items() if not str(name).startswith("-")]
