"""GPTQ's solver: a matrix to few bits so that its outputs change least. Knows no models, no files.

Frantar et al. 2022, arXiv:2210.17323. Column after column is rounded, and what that does to the outputs is
made good by the columns that are left; the inverse Hessian says by how much. Its Cholesky factor holds all
that is needed of it, and columns are taken in blocks so that the rest of the matrix is touched once for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.nn.rounding import best_scales

DAMPING = 0.01
"""Of the Hessian's mean diagonal, added to it: what GPTQ's authors use."""
_BLOCK = 128
_ATTEMPTS = 6


@dataclass(frozen=True)
class Solved:
    """W[o, i] = scales[o, group_of[i]] * (codes[o, i] - 2^(bits-1)).

    `codes`: [out, in] uint8; `scales`: [out, groups] float16; `group_of`: [in] int64.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    group_of: torch.Tensor
    bits: int

    def values(self) -> torch.Tensor:
        """The matrix, [out, in] float32."""
        middle = 2 ** (self.bits - 1)
        return (self.codes.float() - middle) * self.scales.float()[:, self.group_of]


class Hessian:
    """X^T X of a linear's inputs X, summed as they come."""

    def __init__(self, inputs: int, device: str | torch.device = "cpu") -> None:
        self.matrix = torch.zeros(inputs, inputs, device=device)

    def add(self, x: torch.Tensor) -> None:
        """Inputs [rows, in]."""
        x = x.float()
        self.matrix.addmm_(x.T, x)

    def factor(self, descending: bool = False, damping: float = DAMPING) -> Factor:
        """What the matrices with these inputs are solved by; see `solve` for `descending`.

        Raises ValueError where it is not of finite numbers, or no damping makes it positive definite.
        """
        if not bool(torch.isfinite(self.matrix).all()):
            raise ValueError("what it is given are no finite numbers")
        squares, order, hessian = self.matrix.diagonal(), None, self.matrix.double()
        if descending:
            order = torch.argsort(squares, descending=True, stable=True)
            hessian = hessian[order][:, order]
        diagonal = hessian.diagonal()
        diagonal[diagonal == 0] = 1  # an input that is always zero: what it is multiplied with is free
        step = damping * diagonal.mean()
        for _ in range(_ATTEMPTS):
            diagonal.add_(step)
            lower, failed = torch.linalg.cholesky_ex(hessian)
            if not failed:
                upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
                return Factor(upper.to(self.matrix.dtype), self.matrix, order)
            step = step * 10
        raise ValueError("what it is given cannot be told apart")


@dataclass(frozen=True)
class Factor:
    """`upper`: [in, in], the Cholesky factor of the damped inverse of `hessian`, its inputs in `order`."""

    upper: torch.Tensor
    hessian: torch.Tensor
    order: torch.Tensor | None


def solve(weight: torch.Tensor, factor: Factor, bits: int, group: int) -> Solved:
    """Quantize a matrix [out, in] with `group` inputs to a scale (-1: all), symmetrically.

    In an order (descending, by the inputs' squares) each group is still of neighbors, and keeps the scale
    that it had before anything was made good.
    """
    original, squares, order = weight.float(), factor.hessian.diagonal(), factor.order
    inputs = original.shape[1]
    group = inputs if group == -1 else min(group, inputs)
    group_of = torch.arange(inputs, device=weight.device) // group
    starts = range(0, inputs, group)
    scales = original.new_empty(len(original), len(starts))
    static = order is not None or group > _BLOCK
    if static:
        for number, start in enumerate(starts):
            part = slice(start, start + group)
            scales[:, number] = best_scales(original[:, part], bits, squares[part])
    natural = torch.arange(inputs, device=weight.device) if order is None else order
    left, place = original[:, natural], group_of[natural].tolist()
    codes = torch.empty_like(left)
    step = _BLOCK if static else _BLOCK // group * group
    middle = 2 ** (bits - 1)
    for start in range(0, inputs, step):
        stop = min(start + step, inputs)
        block, own = left[:, start:stop], factor.upper[start:stop, start:stop]
        errors = torch.empty_like(block)
        for column in range(stop - start):
            number = place[start + column]
            if not static and column % group == 0:
                part = slice(column, column + group)
                scales[:, number] = best_scales(block[:, part], bits, squares[start:stop][part])
            scale = scales[:, number]
            code = (block[:, column] / scale).round_().clamp_(-middle, middle - 1)
            codes[:, start + column] = code
            errors[:, column] = (block[:, column] - code * scale) / own[column, column]
            block[:, column:] -= errors[:, column, None] * own[column, column:]
        left[:, stop:] -= errors @ factor.upper[start:stop, stop:]
    codes[:, natural] = codes.clone()
    return Solved((codes + middle).to(torch.uint8), scales.half(), group_of, bits)


def output_error(difference: torch.Tensor, hessian: torch.Tensor) -> float:
    """||D X||^2 of a difference [out, in] between matrices, X^T X being the Hessian."""
    return float(((difference @ hessian) * difference).sum())
