"""Stand-ins for the modules of transformers' modelling code whose matrices are quantized."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from engine.nn.quant_product import product
from engine.nn.quantized import Quantized


class Holder(nn.Module):
    """Has one quantized matrix, which goes where the module goes; `parameter` is what the model calls it."""

    parameter = "weight"

    def __init__(self, matrix: Quantized) -> None:
        super().__init__()
        self.matrix = matrix

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Holder:
        super()._apply(fn, recurse)
        self.matrix = self.matrix.to(fn(self.matrix.scales.new_empty(0)).device)
        return self


class QuantLinear(Holder):
    """Stands in for an `nn.Linear`."""

    def __init__(self, matrix: Quantized, bias: nn.Parameter | None = None) -> None:
        super().__init__(matrix)
        self.bias = bias
        self.in_features, self.out_features = matrix.inputs, matrix.outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = product(x, self.matrix)
        return out if self.bias is None else out.add_(self.bias)


class QuantEmbedding(Holder):
    """Stands in for an `nn.Embedding`; rows are made dense as they are looked up, in `dtype`."""

    def __init__(self, matrix: Quantized, dtype: torch.dtype) -> None:
        super().__init__(matrix)
        self._dtype = dtype
        # transformers ties a head's weight to this, and asks it for its device
        self.weight = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.matrix.select(ids.flatten()).dequantize(self._dtype)
        return rows.view(*ids.shape, -1)


class ExpertMatrices(Holder):
    """Stands in for one parameter of a layer's experts; its matrix is [experts, out, in]."""

    parameter = ""


def matrices_of(model: nn.Module) -> list[Quantized]:
    """The quantized matrices of a model, each once: a head tied to the embedding has the same one."""
    found = [module.matrix for module in model.modules() if isinstance(module, Holder)]
    return list({id(matrix): matrix for matrix in found}.values())
