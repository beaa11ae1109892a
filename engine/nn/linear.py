"""Matrix products with weights, plain or packed for the processor. Knows no models.

Packed weights lie in oneDNN's blocked layout. Two to sixteen rows then cost little more than one, and each
row's result has the same bits whatever rows are computed beside it: batching and verifying drafts pay, and
need change no token.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

_ROWS = 8
"""Rows for which the layout is chosen: good from one row to many."""


class Linear(Protocol):
    """x W^T + b over the last dimension of x, [rows, in] to [rows, out]."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The product plus a residual, [rows, out]."""
        ...

    def packed(self) -> Linear:
        """The same, packed for the processor where that can be."""
        ...


class Plain:
    """The weight as the checkpoint has it, [out, in]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._transposed = weight.t()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return torch.addmm(residual, x, self._transposed)

    def packed(self) -> Packed:
        return Packed(self)


class Packed:
    """The weight in blocks; the plain one is not kept."""

    def __init__(self, plain: Plain) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(plain.weight.contiguous(), _ROWS)
        self.bias = plain.bias
        self._product = torch.ops.mkldnn._linear_pointwise

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._product(x, self.weight, self.bias, "none", [], "")
        return out

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self(x).add_(residual)

    def packed(self) -> Packed:
        return self


class PackedModule(nn.Module):
    """Stands in for an `nn.Linear` of transformers' modelling code."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self._packed = Packed(Plain(plain.weight, plain.bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._packed(x)


def pack_modules(model: nn.Module) -> None:
    """Pack every `nn.Linear` of a model, one after another, each in place of the plain one."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, PackedModule(child))


def can_pack(dtype: torch.dtype, device: str) -> bool:
    """Whether this build of torch packs weights of this kind."""
    return (
        device == "cpu"
        and dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
