"""From codes in 32-bit words to a `Quantized`, for the formats that keep them so. Knows no tensors' names."""

from __future__ import annotations

import torch

from engine.nn.quantized import BLOCK, Quantized, pack_u4

_WORD = 32


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """[..., words] int32 to [..., words * 32 / bits] uint8: codes one after another from the lowest bit on.

    Codes may straddle words. Raises ValueError where words hold no whole number of them.
    """
    count = words.shape[-1] * _WORD
    if count % bits:
        raise ValueError(f"{words.shape[-1]} words hold no whole number of {bits}-bit codes")
    codes = words.new_empty((*words.shape[:-1], count // bits), dtype=torch.uint8)
    if words.is_meta:
        return codes
    period = _WORD // bits if _WORD % bits == 0 else _WORD  # codes after which one begins a word again
    step = period * bits // _WORD
    for place in range(period):
        word, shift = divmod(place * bits, _WORD)
        found = words[..., word::step] >> shift
        if (spare := _WORD - shift) < bits:
            rest = words[..., word + 1 :: step] & (1 << bits - spare) - 1
            found = (found & (1 << spare) - 1) | rest << spare
        codes[..., place::period] = found & (1 << bits) - 1
    return codes


def grouped(
    codes: torch.Tensor,
    bits: int,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    group: int,
    groups_of: torch.Tensor | None = None,
) -> Quantized | torch.Tensor:
    """The matrix of codes [out, in] uint8, 0 to 2^bits - 1, with scales and zeros [out, groups].

    Without `zeros` each is 2^(bits-1). `groups_of` [in] says which group an input is of, where they are not
    `group` neighbors each. Raises ValueError where it cannot be so.
    """
    scales, inputs, middle = kept_scales(scales), codes.shape[-1], 1 << bits - 1
    if zeros is not None and not zeros.is_meta and bool((zeros == middle).all()):
        zeros = None
    order = None
    if groups_of is not None:
        if not 0 <= int(groups_of.min()) <= int(groups_of.max()) < scales.shape[-1]:
            raise ValueError(
                f"its inputs are of groups {int(groups_of.min())} to {int(groups_of.max())}, "
                f"there are scales for {scales.shape[-1]}"
            )
        groups_of, neighbors = groups_of.long(), torch.arange(inputs) // group
        if not torch.equal(groups_of, neighbors):
            order = torch.argsort(groups_of, stable=True)
            if not torch.equal(groups_of[order], neighbors):
                return _dense(codes, scales, zeros, middle, groups_of)
            codes = codes if codes.is_meta else codes[:, order]
    if bits <= 4 and inputs % BLOCK == 0:
        if zeros is None and middle < 8:
            codes = codes + (8 - middle)
        kept = None if zeros is None else zeros.to(scales.dtype).contiguous()
        return Quantized("u4", pack_u4(codes), scales, group, kept, order)
    kept = None if zeros is None else (zeros.to(scales.dtype) - middle).contiguous()
    return Quantized("s8", (codes.to(torch.int16) - middle).to(torch.int8), scales, group, kept, order)


def kept_scales(scales: torch.Tensor) -> torch.Tensor:
    """Scales in 16 bits where that loses nothing, else in 32. Raises ValueError for what is no number.

    Of an outline that is not known: those in 16 bits are taken to stay so.
    """
    if not scales.is_floating_point():
        raise ValueError(f"its scales are {scales.dtype}, not numbers with a fraction")
    if scales.is_meta:
        return scales.to(torch.float16) if scales.itemsize == 2 else scales.float()
    if not bool(torch.isfinite(scales.float()).all()):
        raise ValueError("a scale is not a finite number")
    half = scales.to(torch.float16)
    return half.contiguous() if torch.equal(half.float(), scales.float()) else scales.float().contiguous()


def _dense(
    codes: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    middle: int,
    groups_of: torch.Tensor,
) -> torch.Tensor:
    """The values, where groups are of sizes that no `Quantized` has."""
    values = codes.to(torch.float32)
    values.sub_(middle if zeros is None else zeros.float()[:, groups_of])
    return values.mul_(scales.float()[:, groups_of])
