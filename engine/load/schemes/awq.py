"""AWQ as AutoAWQ states it. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.load.schemes.values import group_name, held_bytes, shown, stated, stated_group
from engine.load.weights import Stored

BITS = 4


class AwqSettings:
    """Codes for its GEMM kernel, `group` inputs to a scale (-1: all)."""

    marks = frozenset({"qweight", "qzeros"})
    parts = frozenset({"qweight", "qzeros", "scales"})

    def __init__(self, settings: Mapping[str, Any]) -> None:
        layout = settings.get("version") or settings.get("checkpoint_format") or settings.get("format")
        if settings.get("backend") == "llm-awq":
            layout = "llm-awq"
        if str(layout or "gemm").lower() != "gemm":
            raise ValueError(f"awq in the layout {shown(layout)}")
        bits = stated(settings, "bits", stated(settings, "w_bit", BITS))
        if bits != BITS:
            raise ValueError(f"awq with {bits} bits")
        key = "q_group_size" if "q_group_size" in settings else "group_size"
        self.group = stated_group({"group_size": settings.get(key, 128)})
        self.name = f"awq {bits}-bit {group_name(self.group)}"

    def held(self, stored: Mapping[str, Stored]) -> int:
        inputs, words = stored["qweight"].shape
        return held_bytes(words * 32 // BITS, inputs, BITS, stored["scales"], zeros=True)
