"""Activations times a quantized matrix: by a kernel where there is one, else through dense blocks."""

from __future__ import annotations

import torch

from engine.nn.quantized import Quantized

_BLOCK_BYTES = 4 * 2**20
"""Dense values at once: about what a processor's cache holds between making and using them."""


def product(x: torch.Tensor, matrix: Quantized) -> torch.Tensor:
    """x W^T for x [..., in] and a matrix [out, in], in x's dtype: [..., out]."""
    return _dense(matrix.sorted_inputs(x), matrix)


def _dense(x: torch.Tensor, matrix: Quantized) -> torch.Tensor:
    """By making the matrix dense, some outputs at a time; x is in the order of the codes."""
    out = x.new_empty((*x.shape[:-1], matrix.outputs))
    step = max(1, _BLOCK_BYTES // (4 * matrix.inputs)) if x.device.type == "cpu" else matrix.outputs
    for start in range(0, matrix.outputs, step):
        stop = min(start + step, matrix.outputs)
        torch.matmul(x, matrix.rows(start, stop).sorted_values(x.dtype).t(), out=out[..., start:stop])
    return out
