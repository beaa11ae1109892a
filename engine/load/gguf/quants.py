"""GGUF's blocks as `Quantized` matrices, and as dense values where no kind of these holds them.

The layouts are those of ggml-common.h; the values of all other types come from the gguf package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from engine.load.gguf.block_types import Type
from engine.nn.quantized import Quantized, join, pack_u4

_PLAIN = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
_AT_ONCE = 2**24
"""Weights that are unpacked at a time: on the way they take several times what they end as."""
_STEP_ERROR = 0.01
"""Of a quantization step: how far a Q4_K weight may be from what the file says."""


def read_values(data: torch.Tensor, kind: Type, shape: tuple[int, ...]) -> torch.Tensor:
    """Dense values [shape] of the bytes of a tensor: plain ones in their own dtype, others in float32."""
    if kind.name in _PLAIN:
        return data.view(_PLAIN[kind.name]).view(shape)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = data.numpy().reshape(-1, shape[-1] // kind.block * kind.nbytes)
    values: np.ndarray = dequantize(rows, GGMLQuantizationType[kind.name])
    return torch.from_numpy(values).view(shape)


def read_matrix(data: torch.Tensor, kind: Type, shape: tuple[int, ...]) -> Quantized:
    """The matrix [..., out, in] of the bytes of a tensor whose type is kept.

    Exact, but for Q4_K, see `_q4_k`, and, by float32's rounding, Q5_K. Raises KeyError for other types.
    """
    rows = data.view(-1, shape[-1] // kind.block, kind.nbytes)
    step = max(1, _AT_ONCE // shape[-1])
    parts = [KEPT[kind.name](rows[start : start + step]) for start in range(0, len(rows), step)]
    matrix = join(parts) if len(parts) > 1 else parts[0]
    assert matrix is not None  # of one kind
    return matrix if len(shape) == 2 else _shaped(matrix, shape[:-1])


def _shaped(matrix: Quantized, outputs: tuple[int, ...]) -> Quantized:
    """The same rows as those of several experts."""
    zeros = None if matrix.zeros is None else matrix.zeros.view(*outputs, -1)
    return replace(
        matrix, codes=matrix.codes.view(*outputs, -1), scales=matrix.scales.view(*outputs, -1), zeros=zeros
    )


def _q8_0(blocks: torch.Tensor) -> Quantized:
    """[..., blocks, 34]: a float16 scale, 32 codes with sign."""
    return Quantized("s8", blocks[..., 2:].flatten(-2).view(torch.int8), _halves(blocks[..., :2]), 32)


def _q4_0(blocks: torch.Tensor) -> Quantized:
    """[..., blocks, 18]: a float16 scale, 32 codes as `Quantized` packs them; 8 is zero."""
    return Quantized("u4", blocks[..., 2:].flatten(-2), _halves(blocks[..., :2]), 32)


def _q6_k(blocks: torch.Tensor) -> Quantized:
    """[..., blocks, 210]: 4 low bits, 2 high bits of 256 codes, 16 int8 scales, a float16 scale of these.

    Scales are products of the two, which float32 holds exactly.
    """
    low, high, scales, scale = blocks.split([128, 64, 16, 2], -1)
    low, high = low.unflatten(-1, (2, 64)), high.unflatten(-1, (2, 1, 32))
    nibbles = torch.stack([low & 15, low >> 4], -2).unflatten(-1, (2, 32)).flatten(-3, -2)
    pairs = torch.cat([(high >> shift) & 3 for shift in (0, 2, 4, 6)], -2)
    codes = (nibbles | (pairs << 4)).to(torch.int8).sub_(32)
    products = _halves(scale).float()[..., None] * scales.contiguous().view(torch.int8)
    return Quantized("s8", codes.flatten(-4), products.flatten(-2), 16)


def _q4_k(blocks: torch.Tensor) -> Quantized:
    """[..., blocks, 144]: scales of scales and of minima, 6 bits of each per group of 32, 256 codes.

    The file says w = step q - minimum. Here w = scale (q - zero), both in float16, where that is within a
    hundredth of a step of it for every code of every group, else both in float32. The scale is `step`
    rounded, and `zero` is chosen so that what the rounding does is nothing in the middle of the codes: half
    of it remains at their ends.
    """
    scale, packed, codes = blocks.split([4, 12, 128], -1)
    step, minimum = _steps(scale, packed)
    values = _nibbles(codes).flatten(-3)
    scales = step.half()
    rounded = scales.float()
    zeros = torch.where(scales == 0, 0, (minimum + 7.5 * (rounded - step)) / rounded).half()
    if not _near(step, minimum, scales, zeros):
        values, scales, zeros = _exactly(values, step, minimum)
    return Quantized("u4", pack_u4(values), scales, 32, zeros)


def _q5_k(blocks: torch.Tensor) -> Quantized:
    """[..., blocks, 176]: as Q4_K, with a fifth bit of each code: of group g, the bits g of 32 bytes."""
    scale, packed, high, codes = blocks.split([4, 12, 32, 128], -1)
    bits = (high[..., None, :] >> torch.arange(8, dtype=torch.uint8)[:, None]) & 1
    values = (_nibbles(codes) | (bits << 4)).flatten(-3)
    values, scales, zeros = _exactly(values, *_steps(scale, packed))
    return Quantized("s8", values.view(torch.int8), scales, 32, zeros)


def _q5_0(blocks: torch.Tensor) -> Quantized:
    """[..., blocks, 22]: a float16 scale, the fifth bits of 32 codes, their low halves; 16 is zero."""
    scale, high, codes = blocks.split([2, 4, 16], -1)
    bits = (high[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1
    values = torch.cat([codes & 15, codes >> 4], -1) | (bits.flatten(-2) << 4)
    return Quantized("s8", values.view(torch.int8).sub(16).flatten(-2), _halves(scale), 32)


def _steps(scale: torch.Tensor, packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each group of a K-quant: the step and the minimum, [..., groups] float32."""
    both = _halves(scale).float()
    of_steps, of_minima = _six_bits(packed)
    return (both[..., :1] * of_steps).flatten(-2), (both[..., 1:] * of_minima).flatten(-2)


def _nibbles(codes: torch.Tensor) -> torch.Tensor:
    """[..., 128] bytes to [..., 8, 32]: two groups share 32 bytes."""
    pairs = codes.unflatten(-1, (4, 32))
    return torch.stack([pairs & 15, pairs >> 4], -2).flatten(-3, -2)


def _exactly(
    values: torch.Tensor, step: torch.Tensor, minimum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and zeros in float32; a group with minimum alone (step 0) becomes code 0 with zero 1."""
    flat = step == 0
    values = values.unflatten(-1, (-1, 32)).masked_fill(flat[..., None], 0).flatten(-2)
    return values, torch.where(flat, minimum, step), torch.where(flat, 1, minimum / step)


def _near(step: torch.Tensor, minimum: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> bool:
    """Whether scale (q - zero) is step q - minimum for q = 0 and 15, and so between, up to the bound.

    Of an outline that is not known: it is taken to be so.
    """
    if step.is_meta:
        return True
    bound = _STEP_ERROR * step.abs()
    return all(
        bool(((scales.float() * (q - zeros.float()) - (step * q - minimum)).abs() <= bound).all())
        for q in (0, 15)
    )


def _six_bits(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., 12] bytes to two times [..., 8] numbers of 6 bits, as K-quants pack scales and minima."""
    first, second, rest = packed.to(torch.int32).split(4, -1)
    scales = torch.cat([first & 63, (rest & 15) | ((first >> 6) << 4)], -1)
    minima = torch.cat([second & 63, (rest >> 4) | ((second >> 6) << 4)], -1)
    return scales, minima


def _halves(data: torch.Tensor) -> torch.Tensor:
    """[..., 2 n] bytes to [..., n] float16, without the last dimension where n is 1."""
    halves = data.contiguous().view(torch.float16)
    return halves.squeeze(-1) if halves.shape[-1] == 1 else halves


KEPT: dict[str, Callable[[torch.Tensor], Quantized]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_K": _q4_k,
    "Q5_0": _q5_0,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
