"""Matrices kept in few bits: codes, and a scale (and zero) per group of inputs. Knows no files, no models.

Every format that is read, and everything that is quantized here, ends as one of these, so that one linear and
one set of kernels serve them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch

Kind = Literal["u4", "s8", "f8"]
"""4 bits without sign (0 to 15), 8 with (-128 to 127), or 8 as float8_e4m3fn."""

BLOCK = 32
"""Inputs whose 4-bit codes lie together; a u4 matrix has a multiple of them."""

_CODES = {"u4": torch.uint8, "s8": torch.int8, "f8": torch.float8_e4m3fn}
_MIDDLE = {"u4": 8, "s8": 0, "f8": 0}


@dataclass(frozen=True)
class Quantized:
    """W[..., o, order[i]] = scales[..., o, i // group] * (code[..., o, i] - zeros[..., o, i // group]).

    `codes`: [..., out, in], but [..., out, in / 2] for u4, where the 16 bytes of each 32 inputs hold input j
    in the low half of byte j and input j + 16 in the high half. `scales` and `zeros`: [..., out, groups],
    float16 or float32, in units of the weight and of codes; without `zeros` it is 8 for u4, else 0. The last
    group may be short. `order`: [in] int64, the input that each column of codes belongs to; None for as they
    come. Leading dimensions are experts; `order` may have them too, where each expert has its own.
    """

    kind: Kind
    codes: torch.Tensor
    scales: torch.Tensor
    group: int
    zeros: torch.Tensor | None = None
    order: torch.Tensor | None = None

    def __post_init__(self) -> None:
        groups = -(-self.inputs // self.group) if self.group > 0 else 0
        expected = (*self.codes.shape[:-1], groups)
        if self.codes.dtype != _CODES[self.kind]:
            raise ValueError(f"codes of {self.kind} are not {self.codes.dtype}")
        if self.kind == "u4" and self.inputs % BLOCK:
            raise ValueError(f"4-bit codes for {self.inputs} inputs, which is no multiple of {BLOCK}")
        if tuple(self.scales.shape) != expected:
            raise ValueError(f"scales {tuple(self.scales.shape)} instead of {expected}")
        if self.zeros is not None and (
            self.zeros.shape != self.scales.shape or self.zeros.dtype != self.scales.dtype
        ):
            raise ValueError(f"zeros {tuple(self.zeros.shape)} beside scales {expected}")
        orders = ((self.inputs,), (*self.codes.shape[:-2], self.inputs))
        if self.order is not None and tuple(self.order.shape) not in orders:
            raise ValueError(f"an order of {tuple(self.order.shape)} for {self.inputs} inputs")

    @property
    def inputs(self) -> int:
        return int(self.codes.shape[-1]) * (2 if self.kind == "u4" else 1)

    @property
    def outputs(self) -> int:
        return int(self.codes.shape[-2])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix that it stands for, [..., out, in]."""
        return (*self.codes.shape[:-1], self.inputs)

    @property
    def elements(self) -> int:
        """Weights that it stands for."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return sum(part.nbytes for part in self.parts().values())

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix, [..., out, in], its inputs in the model's order; computed in float32."""
        if self.order is not None and self.order.dim() > 1:
            return torch.stack([self.expert(index).dequantize(dtype) for index in range(len(self.codes))])
        values = self.sorted_values(dtype)
        if self.order is None:
            return values
        restored = torch.empty_like(values)
        restored[..., self.order] = values
        return restored

    def sorted_values(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix with its inputs in the order of the codes: to be multiplied with `sorted_inputs`."""
        codes = unpack_u4(self.codes) if self.kind == "u4" else self.codes
        values = codes.to(torch.float32)
        scales, zeros = self.scales.float(), self.zeros.float() if self.zeros is not None else None
        if self.inputs % self.group == 0:
            grouped = values.unflatten(-1, (-1, self.group))
            if zeros is not None:
                grouped.sub_(zeros[..., None])
            elif _MIDDLE[self.kind]:
                grouped.sub_(_MIDDLE[self.kind])
            grouped.mul_(scales[..., None])
        else:
            values.sub_(_spread(zeros, self) if zeros is not None else _MIDDLE[self.kind])
            values.mul_(_spread(scales, self))
        return values.to(dtype)

    def sorted_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Activations [..., in] in the order of the codes."""
        return x if self.order is None else x[..., self.order]

    def rows(self, start: int, stop: int) -> Quantized:
        """Some outputs, as views."""
        return self._map(lambda part: part[..., start:stop, :])

    def select(self, outputs: torch.Tensor) -> Quantized:
        """Some outputs of a matrix without experts, by their numbers, as a copy."""
        return self._map(lambda part: _bytes(part).index_select(0, outputs).view(part.dtype))

    def expert(self, index: int) -> Quantized:
        """One of the leading dimension, as views."""
        parts = {
            name: part[index] for name, part in self.parts().items() if name != "order" or part.dim() > 1
        }
        return replace(self, **parts)

    def to(self, device: str | torch.device) -> Quantized:
        return replace(self, **{name: part.to(device) for name, part in self.parts().items()})

    def parts(self) -> dict[str, torch.Tensor]:
        """Its tensors by the names of the fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Quantized:
        """The same with codes, scales and zeros changed; the inputs stay as they are."""
        parts = {name: change(part) for name, part in self.parts().items() if name != "order"}
        return replace(self, **parts)


def join(parts: Sequence[Quantized]) -> Quantized | None:
    """One matrix with the outputs of several that have the same inputs; None where they differ in kind or
    in the order of their inputs."""
    if not _same_order(parts):
        return None
    return _combine(parts, lambda tensors: torch.cat(tensors, -2), parts[0].order)


def stack(parts: Sequence[Quantized]) -> Quantized | None:
    """Several matrices of one shape as experts, [parts, ...]; None where they differ in kind."""
    if len({part.shape for part in parts}) > 1:
        return None
    order = parts[0].order
    if not _same_order(parts):
        natural = torch.arange(parts[0].inputs, device=parts[0].codes.device)
        order = torch.stack([natural if part.order is None else part.order for part in parts])
    return _combine(parts, torch.stack, order)


def _same_order(parts: Sequence[Quantized]) -> bool:
    first = parts[0].order
    if first is None:
        return all(part.order is None for part in parts)
    return all(part.order is not None and torch.equal(part.order, first) for part in parts)


def pack_u4(codes: torch.Tensor) -> torch.Tensor:
    """[..., in] uint8 from 0 to 15, in a multiple of 32, to [..., in / 2] as `Quantized` has them."""
    halves = codes.unflatten(-1, (-1, 2, BLOCK // 2))
    return (halves[..., 0, :] | (halves[..., 1, :] << 4)).flatten(-2)


def unpack_u4(packed: torch.Tensor) -> torch.Tensor:
    """The reverse of `pack_u4`."""
    bytes_ = packed.unflatten(-1, (-1, BLOCK // 2))
    return torch.stack([bytes_ & 15, bytes_ >> 4], -2).flatten(-3)


def _combine(
    parts: Sequence[Quantized],
    combine: Callable[[list[torch.Tensor]], torch.Tensor],
    order: torch.Tensor | None,
) -> Quantized | None:
    first = parts[0]
    if any((part.kind, part.group, part.inputs) != (first.kind, first.group, first.inputs) for part in parts):
        return None
    exact = any(part.scales.dtype == torch.float32 for part in parts)
    dtype = torch.float32 if exact else first.scales.dtype
    zeros = None
    if any(part.zeros is not None for part in parts):
        zeros = combine([_zeros(part).to(dtype) for part in parts])
    return Quantized(
        kind=first.kind,
        codes=combine([_bytes(part.codes) for part in parts]).view(first.codes.dtype),
        scales=combine([part.scales.to(dtype) for part in parts]),
        group=first.group,
        zeros=zeros,
        order=order,
    )


def _zeros(matrix: Quantized) -> torch.Tensor:
    """The zeros, written out where they are what goes without saying."""
    return torch.full_like(matrix.scales, _MIDDLE[matrix.kind]) if matrix.zeros is None else matrix.zeros


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes, where it has one per element: float8 cannot be joined or picked from on every device."""
    return tensor.view(torch.uint8) if tensor.itemsize == 1 else tensor


def _spread(of_groups: torch.Tensor, matrix: Quantized) -> torch.Tensor:
    """A value per group, for each input of it."""
    return of_groups.repeat_interleave(matrix.group, -1)[..., : matrix.inputs]
