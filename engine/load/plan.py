"""How a model's matrices are quantized as it is loaded: which in how many bits. Knows no files, no hardware.

The rule. A layer's matrices, experts included, take what was asked for. The output head decides every token,
and so does an embedding that it is tied to: they take 8 bits in any case. An embedding of its own is only
looked up: it goes with the layers. In 4 bits 32 inputs share a scale, and 64 in the feed-forward, which is
most of a model and bears it best: that pays for the head's 8 bits. Routers, norms and what is too narrow for
groups stay as they are: they are small, and a router's rounding sends tokens to other experts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from engine.nn.quantized import Kind
from engine.nn.rounding import GROUPS, METHOD, can_round
from engine.protocol.quant import Quant

KINDS: Mapping[str, Kind] = {"int8": "s8", "int4": "u4", "fp8": "f8"}
NONE = "none"
ROUTERS = ("gate", "router", "shared_expert_gate")
_HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in")
_FEED_FORWARD = (
    *("gate_proj", "up_proj", "down_proj", "gate_up_proj"),
    *("fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h", "w1", "w2", "w3"),
)
_WIDE = 64
_SCALE_BYTES = 2


@dataclass(frozen=True)
class QuantPlan:
    """`base` for the layers, None for their own dtype; `exceptions` by pattern of a parameter's path.

    `reason`: who chose it and why, in a few words.
    """

    base: Kind | None = None
    exceptions: tuple[tuple[str, Kind | None], ...] = ()
    tied: bool = False
    reason: str = ""

    def __bool__(self) -> bool:
        return self.base is not None or any(kind for _, kind in self.exceptions)

    @property
    def name(self) -> str:
        """As it can be asked for: `int4,down_proj=int8`."""
        names = {kind: name for name, kind in KINDS.items()} | {None: NONE}
        parts = [f"{pattern}={names[kind]}" for pattern, kind in self.exceptions]
        return ",".join([names[self.base], *parts])

    def kind(self, name: str, shape: tuple[int, ...]) -> Kind | None:
        """In what the parameter [..., out, in] of this name is kept; None for its own dtype."""
        path = name.removesuffix(".weight")
        if len(shape) < 2 or "norm" in path.rpartition(".")[2] or path.rpartition(".")[2] in ROUTERS:
            return None
        wanted = self.base
        if wanted is not None and path.rpartition(".")[2] in (_HEADS + _EMBEDDINGS if self.tied else _HEADS):
            wanted = "s8"
        for pattern, kind in self.exceptions:
            if matches(pattern, path):
                wanted = kind
        possible: tuple[Kind, ...] = (wanted, "s8") if wanted else ()
        return next((kind for kind in possible if can_round(kind, shape[-1])), None)

    def group(self, name: str, shape: tuple[int, ...]) -> int:
        """How many inputs of a parameter share a scale, where its kind has groups."""
        kind = self.kind(name, shape)
        wide = name.removesuffix(".weight").rpartition(".")[2] in _FEED_FORWARD and shape[-1] % _WIDE == 0
        return _WIDE if kind == "u4" and wide else GROUPS.get(kind or "", shape[-1])

    def bytes_each(self, name: str, shape: tuple[int, ...], itemsize: int) -> float:
        """Bytes that one value of a parameter takes, its share of the scales included."""
        kind = self.kind(name, shape)
        if kind is None:
            return itemsize
        if kind == "f8":
            return 1 + 4 / shape[-1]
        return (0.5 if kind == "u4" else 1) + _SCALE_BYTES / self.group(name, shape)


def matches(pattern: str, path: str) -> bool:
    """Whether an exception is meant for a parameter, whose path ends with no `.weight`."""
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*.{pattern}")


def way(plan: QuantPlan) -> str:
    """Names what a plan makes of a checkpoint: equal where all codes and scales are."""
    return f"{METHOD} {plan.name} {plan.tied}"


def plan_of(quant: Quant, tied: bool, reason: str) -> QuantPlan:
    """The plan for what was asked for; for `auto` its exceptions alone."""
    exceptions = tuple((pattern, KINDS.get(kind)) for pattern, kind in quant.exceptions)
    return QuantPlan(KINDS.get(quant.base), exceptions, tied, reason)
