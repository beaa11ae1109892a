"""Activations times a quantized matrix: by a kernel where there is one, else through dense blocks."""

from __future__ import annotations

import torch

from engine.nn.kernels.cpu import ready
from engine.nn.quantized import Quantized

_BLOCK_BYTES = 4 * 2**20
"""Dense values at once: about what a processor's cache holds between making and using them."""


def product(x: torch.Tensor, matrix: Quantized) -> torch.Tensor:
    """x W^T for x [..., in] and a matrix [out, in], in x's dtype: [..., out]."""
    x = matrix.sorted_inputs(x)
    kernel = ready(matrix)
    if kernel is None:
        return _dense(x, matrix)
    if x.dim() == 2:
        return kernel.multiply(x)
    return kernel.multiply(x.reshape(-1, matrix.inputs)).view(*x.shape[:-1], matrix.outputs)


def expert_products(
    x: torch.Tensor, matrix: Quantized, experts: torch.Tensor, begins: torch.Tensor
) -> torch.Tensor:
    """Rows begins[i] to begins[i + 1] of x [rows, in] times the matrix experts[i] of [experts, out, in].

    Both int64; the matrices of other experts are not read. [rows, out] in x's dtype.
    """
    kernel = ready(matrix)
    if kernel is not None:
        return kernel.multiply(_sorted_rows(x, matrix, experts, begins), experts, begins)
    out = x.new_empty((len(x), matrix.outputs))
    bounds = begins.tolist()
    for expert, start, stop in zip(experts.tolist(), bounds[:-1], bounds[1:], strict=True):
        out[start:stop] = product(x[start:stop], matrix.expert(expert))
    return out


def _sorted_rows(
    x: torch.Tensor, matrix: Quantized, experts: torch.Tensor, begins: torch.Tensor
) -> torch.Tensor:
    """Rows in the order of the codes of the expert that each is for."""
    if matrix.order is None or matrix.order.dim() == 1:
        return matrix.sorted_inputs(x)
    return x.gather(1, matrix.order[experts].repeat_interleave(begins.diff(), 0))


def _dense(x: torch.Tensor, matrix: Quantized) -> torch.Tensor:
    """By making the matrix dense, some outputs at a time; x is in the order of the codes."""
    out = x.new_empty((*x.shape[:-1], matrix.outputs))
    step = max(1, _BLOCK_BYTES // (4 * matrix.inputs)) if x.device.type == "cpu" else matrix.outputs
    for start in range(0, matrix.outputs, step):
        stop = min(start + step, matrix.outputs)
        torch.matmul(x, matrix.rows(start, stop).sorted_values(x.dtype).t(), out=out[..., start:stop])
    return out
