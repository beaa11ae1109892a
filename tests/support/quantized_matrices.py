"""Random quantized matrices, and plain ones made into such by rounding to the nearest code."""

from __future__ import annotations

import torch

from engine.nn.quantized import Kind, Quantized, pack_u4

LARGEST = {"u4": 7.0, "s8": 127.0, "f8": 448.0}
"""Of a group's values, in codes from the middle."""


def random_matrix(
    kind: Kind,
    *shape: int,
    group: int,
    zeros: bool = False,
    scales: torch.dtype = torch.float16,
    seed: int = 0,
) -> Quantized:
    """Codes, scales and zeros at random, [..., out, in]; zeros are fractions too."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-shape[-1] // group)
    if kind == "u4":
        codes = pack_u4(torch.randint(0, 16, shape, dtype=torch.uint8, generator=generator))
    elif kind == "s8":
        codes = torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)
    else:
        every = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        codes = torch.where(every & 127 == 127, 1, every).view(torch.float8_e4m3fn)  # those are no numbers
    size = torch.rand(*shape[:-1], groups, generator=generator) + 0.1
    offsets = torch.rand(*shape[:-1], groups, generator=generator) * 15
    return Quantized(
        kind, codes, (size / LARGEST[kind]).to(scales), group, offsets.to(scales) if zeros else None
    )


def rounded(weights: torch.Tensor, kind: Kind, group: int) -> Quantized:
    """The nearest codes to [..., out, in], symmetric; the inputs are a multiple of the group."""
    grouped = weights.float().unflatten(-1, (-1, group))
    scales = grouped.abs().amax(-1).clamp_min(1e-8) / LARGEST[kind]
    values = (grouped / scales[..., None]).flatten(-2)
    if kind == "f8":
        return Quantized(kind, values.to(torch.float8_e4m3fn), scales, group)
    codes = values.round()
    if kind == "s8":
        return Quantized(kind, codes.to(torch.int8), scales, group)
    return Quantized(kind, pack_u4((codes + 8).to(torch.uint8)), scales, group)
