"""Values to few bits: which codes and scales stand best for a matrix. Knows no models, and needs no data.

Rounding to the nearest code, with a group's largest value as the end of its scale, spends codes on outliers.
In 4 bits each group tries several ends, smaller and larger, on either side of zero (the codes reach one
further down than up). In 8 bits the steps are small, and how well a group happens to fall on them is what
differs: it tries several a little apart. Each is followed by the scale that fits its codes best (least
squares); the one with the smallest error stays.
"""

from __future__ import annotations

import torch

from engine.nn.kernels.search import search
from engine.nn.quantized import Kind, Quantized, pack_u4

GROUPS = {"u4": 32, "s8": 32}
"""Inputs per scale: 4.5 and 8.5 bits per weight with their float16 scales."""
METHOD = "ends-3"
"""Names what is done here, for what was kept of it: another name where codes or scales become others."""
_ENDS = {
    4: tuple(side * end for side in (1, -1) for end in (0.75, 0.85, 0.95, 1.05)),
    8: tuple(1 + step / 150 for step in range(10)),
}
"""Where a scale's lowest code lies, as parts of the group's largest value."""
_BITS = {"u4": 4, "s8": 8}
_F8_MAX = 448.0
_SMALLEST = 2.0**-24
"""The smallest float16 above zero."""
_LARGEST = 65504.0
_LEAST = 1e-30
"""Keeps a group of zeros from dividing by nothing."""
_CHUNK = 2**20
"""Values at once: what the search makes of them stays in a processor's cache."""


def can_round(kind: Kind, inputs: int) -> bool:
    """Whether a matrix with so many inputs can be kept so."""
    return kind == "f8" or inputs % GROUPS[kind] == 0


def round_matrix(values: torch.Tensor, kind: Kind, group: int | None = None) -> Quantized:
    """A matrix [..., out, in] in few bits; see `can_round`. Values that are not finite raise ValueError.

    `group`: inputs per scale, where they are not GROUPS'; float8 has one for all.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError("it has values that are not finite numbers")
    values = values.contiguous()
    if kind == "f8":
        return _to_f8(values)
    group = group or GROUPS[kind]
    rows = values.reshape(-1, group)
    step = max(1, _CHUNK // group) if values.device.type == "cpu" else 16 * _CHUNK // group
    searched = [_round(part.float(), kind) for part in rows.split(step)]
    codes = torch.cat([codes for codes, _ in searched]).view(values.shape)
    scales = torch.cat([scales for _, scales in searched]).view(*values.shape[:-1], -1)
    if kind == "s8":
        return Quantized(kind, codes, scales, group)
    return Quantized(kind, pack_u4((codes + 8).to(torch.uint8)), scales, group)


def best_scales(groups: torch.Tensor, bits: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The scale [n], a float16 in float32, with which each group [n, group] is best rounded to so many bits.

    `weights` [group]: what a square of each value's error costs; all the same without.
    """
    return _search(groups, bits, weights)[:, 0]


def _round(groups: torch.Tensor, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [n, group] int8 and scales [n, 1] float16 for groups [n, group]."""
    bits = _BITS[kind]
    scales = _search(groups, bits)
    codes = (groups / scales).round_().clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes.to(torch.int8), scales.half()


def _search(groups: torch.Tensor, bits: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Scales [n, 1] float32 that are float16's, see `best_scales`."""
    if (found := search(groups, bits, _ENDS[bits], weights)) is not None:
        return found[:, None]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    best_error = torch.full_like(largest, torch.inf)
    best_scale = torch.empty_like(largest)
    for end in _ENDS[bits]:
        scale = _half(largest * (end / low))
        for _ in range(2):
            codes = (groups / scale).round_().clamp_(low, high)
            squares = torch.addcmul(groups, codes, scale, value=-1).square_()
            error = _sum(squares, weights)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            fits = _sum(codes * groups, weights)
            scale = _half(fits / _sum(codes.square_(), weights).clamp_min_(_LEAST))
    return best_scale


def _sum(values: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Over each group, [n, 1]."""
    return values.sum(-1, keepdim=True) if weights is None else (values @ weights)[:, None]


def _half(scale: torch.Tensor) -> torch.Tensor:
    """Rounded to float16, and never zero."""
    rounded = scale.clamp(-_LARGEST, _LARGEST).half().float()
    return torch.where(rounded == 0, torch.full_like(rounded, _SMALLEST), rounded)


def _to_f8(values: torch.Tensor) -> Quantized:
    """float8 with a scale for each output, as float8's own exponent spans the inputs."""
    scales = (values.float().abs().amax(-1, keepdim=True) / _F8_MAX).clamp_min(1e-12)
    codes = (values.float() / scales).clamp_(-_F8_MAX, _F8_MAX).to(torch.float8_e4m3fn)
    return Quantized("f8", codes, scales, values.shape[-1])
