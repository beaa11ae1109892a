"""GPTQ of a layer's experts: each is solved on the tokens that the router sends it.

transformers keeps the matrices of all experts as one parameter; files in GPTQ's format have each by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from engine.load.errors import ModelError
from engine.protocol.quantize import Making
from engine.quantize import layers
from engine.quantize.layers import Batch
from engine.quantize.solver import Hessian, Solved, solve

_STORED = re.compile(r"\.(\d+)\.[\w.]*\bexperts\.(\d+)\.(\w+)\.weight$")
_ROLES = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}
MATRICES = 3
"""Of an expert."""
_LEAST = 0.25
"""Tokens for each input of a matrix: on fewer, what is made good for them is paid for by all others."""

Place = tuple[int, int, str]
"""A matrix of an expert: its layer, its expert, and `gate`, `up` or `down`."""


@dataclass(frozen=True)
class SolvedExpert:
    """`rounded`: too few tokens were sent to the expert, and its matrix is rounded without them."""

    place: Place
    solved: Solved
    rounded: bool


def stored_names(names: Iterable[str]) -> dict[Place, str]:
    """Under which of a checkpoint's names each matrix of an expert is."""
    found: dict[Place, str] = {}
    for name in names:
        parts = _STORED.search(name)
        if parts and (role := _ROLES.get(parts[3])):
            found[int(parts[1]), int(parts[2]), role] = name
    return found


def experts_in(layer: nn.Module) -> dict[str, Any]:
    """A layer's modules that have experts' matrices as parameters. Raises ModelError for unknown ones."""
    found = {
        name: module
        for name, module in layer.named_modules()
        if hasattr(module, "num_experts") and hasattr(module, "gate_up_proj")
    }
    for module in found.values():
        if getattr(module, "is_transposed", False) or getattr(module, "has_bias", False):
            raise ModelError(f"{type(module).__name__} are experts that are not solved", "use --quant")
    return found


def solve_experts(
    layer: nn.Module, number: int, name: str, batches: list[Batch], making: Making
) -> Iterator[SolvedExpert]:
    """Every matrix of a layer's experts; the module has its values afterwards."""
    module: Any = layer.get_submodule(name)
    sent = [layers.routed(layer, number, name, batch) for batch in batches]
    hidden, chosen = (torch.cat(parts) for parts in zip(*sent, strict=True))
    for expert in range(module.num_experts):
        x = hidden[(chosen == expert).any(-1)]
        first, down = module.gate_up_proj[expert], module.down_proj[expert]
        both, few = _solved(first, x, making)
        half = len(first) // 2
        for role, rows in (("gate", slice(None, half)), ("up", slice(half, None))):
            part = replace(both, codes=both.codes[rows], scales=both.scales[rows])
            yield SolvedExpert((number, expert, role), part, few)
        first.copy_(both.values())
        second, few = _solved(down, module._apply_gate(x @ first.T), making)
        down.copy_(second.values())
        yield SolvedExpert((number, expert, "down"), second, few)


def _solved(weight: torch.Tensor, x: torch.Tensor, making: Making) -> tuple[Solved, bool]:
    """A matrix [out, in] on its inputs [tokens, in]; whether these were too few."""
    inputs = weight.shape[1]
    hessian = Hessian(inputs, weight.device)
    few = len(x) < _LEAST * inputs
    if few:
        hessian.matrix.fill_diagonal_(1)  # all inputs matter the same, and none can make good another
    else:
        hessian.add(x)
    try:
        factor = hessian.factor(making.descending)
    except ValueError as error:
        raise ModelError(f"an expert cannot be solved: {error}", "use --to int4") from error
    return solve(weight, factor, making.bits, making.group), few
