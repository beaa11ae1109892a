"""A layer's experts with quantized matrices: each computes the tokens that the router sent it, and only those
that were sent any are read."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from engine.nn.quant_modules import ExpertMatrices
from engine.nn.quant_product import product
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
    parts = hidden_states.new_empty((tokens, chosen, hidden_states.shape[-1]))
    first = "gate_up_proj" if self.has_gate else "up_proj"
    for expert in top_k_index.unique().tolist():
        token, place = torch.where(top_k_index == expert)
        inner = _project(self, first, expert, hidden_states[token])
        inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
        out = _project(self, "down_proj", expert, inner)
        parts[token, place] = (
            self.post_expert_norm(out) if getattr(self, "has_post_expert_norm", False) else out
        )
    return (parts * top_k_weights[..., None].to(parts.dtype)).sum(1)


def _project(experts: Any, name: str, expert: int, x: torch.Tensor) -> torch.Tensor:
    weights = getattr(experts, name)
    if isinstance(weights, ExpertMatrices):
        out = product(x, weights.matrix.expert(expert))
    else:
        out = x @ (weights[expert] if experts.is_transposed else weights[expert].t())
    return out + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else out
