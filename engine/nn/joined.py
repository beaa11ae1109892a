"""Matrix products out of a model's modules: several with the same input as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from engine.nn.linear import Linear, Plain
from engine.nn.quant_modules import QuantLinear
from engine.nn.quant_product import product
from engine.nn.quantized import Quantized, join


class Few:
    """The product with a matrix in few bits."""

    def __init__(self, matrix: Quantized, bias: torch.Tensor | None = None) -> None:
        self._matrix = matrix
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = product(x, self._matrix)
        return out if self._bias is None else out.add_(self._bias)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self(x).add_(residual)

    def packed(self) -> Few:
        return self


class Beside:
    """Products with one input that cannot be one product: their outputs one after another."""

    def __init__(self, parts: Sequence[Linear]) -> None:
        self._parts = parts

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self._parts], -1)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self(x).add_(residual)

    def packed(self) -> Beside:
        return Beside([part.packed() for part in self._parts])


def joined(modules: Sequence[nn.Module]) -> Linear:
    """One product for modules with the same input. Their weights become views of it: nothing is held twice.

    Raises ValueError for a module that is not a linear.
    """
    plain = [module for module in modules if isinstance(module, nn.Linear)]
    if len(plain) == len(modules):
        return Plain(_join([module.weight for module in plain], plain, "weight"), _bias(plain))
    few = [module for module in modules if isinstance(module, QuantLinear)]
    if len(few) < len(modules):
        if len(few) + len(plain) < len(modules):
            raise ValueError("not a linear")
        return Beside([joined([module]) for module in modules])
    matrix = join([module.matrix for module in few]) if len(few) > 1 else few[0].matrix
    if matrix is None:
        return Beside([joined([module]) for module in few])
    start = 0
    for module in few:
        module.matrix = matrix.rows(start, start + module.matrix.outputs)
        start += module.out_features
    return Few(matrix, _bias(few))


def let_go(module: nn.Module) -> None:
    """Have an `nn.Linear` whose weight was packed elsewhere keep none."""
    if isinstance(module, nn.Linear):
        module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)


def _bias(modules: Sequence[nn.Linear] | Sequence[QuantLinear]) -> torch.Tensor | None:
    present = [module.bias for module in modules if module.bias is not None]
    if not present:
        return None
    biases = [
        module.bias if module.bias is not None else present[0].new_zeros(module.out_features)
        for module in modules
    ]
    return _join(biases, modules, "bias") if len(present) == len(modules) else torch.cat(biases)


def _join(parts: Sequence[torch.Tensor], modules: Sequence[nn.Module], name: str) -> torch.Tensor:
    """The modules' parameters in one tensor, of which they become views."""
    if len(parts) == 1:
        return parts[0]
    whole = torch.cat(list(parts))
    for module, view in zip(modules, whole.split([len(part) for part in parts]), strict=True):
        setattr(module, name, nn.Parameter(view, requires_grad=False))
    return whole
