"""A layer's experts with quantized matrices: each computes the tokens that the router sent it, and only those
that were sent any are read."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.nn.quant_modules import ExpertMatrices
from engine.nn.quant_product import expert_products
from engine.nn.quantized import Quantized


def replace_parameter(experts: nn.Module, name: str, matrix: Quantized) -> None:
    """Put a quantized [experts, out, in] in place of one of the module's 3-D parameters."""
    delattr(experts, name)
    setattr(experts, name, ExpertMatrices(matrix))
    experts.forward = MethodType(_forward, experts)


def _forward(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """What transformers' experts compute: [tokens, hidden] by [tokens, k] experts and their weights."""
    tokens, chosen = top_k_index.shape
    rows = top_k_index.flatten().argsort(stable=True)
    experts, counts = top_k_index.flatten()[rows].unique_consecutive(return_counts=True)
    begins = functional.pad(counts.cumsum(0), (1, 0))
    first = "gate_up_proj" if self.has_gate else "up_proj"
    inner = _project(self, first, hidden_states[rows // chosen], experts, begins)
    inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
    out = _project(self, "down_proj", inner, experts, begins)
    if getattr(self, "has_post_expert_norm", False):
        out = self.post_expert_norm(out)
    parts = torch.empty_like(out)
    parts[rows] = out
    weights = top_k_weights[..., None].to(parts.dtype)
    return (parts.view(tokens, chosen, -1) * weights).sum(1)


def _project(
    self: Any, name: str, x: torch.Tensor, experts: torch.Tensor, begins: torch.Tensor
) -> torch.Tensor:
    """Rows begins[i] to begins[i + 1] of x through one parameter of the expert experts[i]."""
    weights = getattr(self, name)
    if isinstance(weights, ExpertMatrices):
        out = expert_products(x, weights.matrix, experts, begins)
    else:
        matrices = weights if self.is_transposed else weights.transpose(-1, -2)
        pairs = zip(x.tensor_split(begins[1:-1].tolist()), experts.tolist(), strict=True)
        out = torch.cat([part @ matrices[expert] for part, expert in pairs])
    if self.has_bias:
        out = out + getattr(self, f"{name}_bias")[experts].repeat_interleave(begins.diff(), 0)
    return out
