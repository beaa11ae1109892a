"""Products with quantized matrices on a processor, by the kernels of cpu.c.

An output has the same bits whatever rows are computed with it and on however many threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from engine.nn.kernels.build import INSTRUCTION_SETS, Kernels, kernels
from engine.nn.quantized import Quantized

_KINDS = {"u4": 0, "s8": 1, "f8": 2}
_UNITS = {"u4": 32, "s8": 16, "f8": 16}
"""Inputs that are decoded at once: groups do not end within them."""
_READY = "_ready"
"""Where a matrix remembers how it is given to a kernel; what is worked out anew each time takes as long as a
small product."""


class _Matrix(ctypes.Structure):
    """As in cpu.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "zeros")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs", "group")),
        *((name, ctypes.c_int32) for name in ("kind", "half")),
    )


@dataclass(frozen=True)
class Ready:
    """A matrix, or several of one size, as a kernel takes it."""

    _matrix: _Matrix
    _outputs: int
    _parts: tuple[torch.Tensor | None, ...]
    """Kept alive: the kernel has but their addresses."""
    _kernels: Kernels

    @property
    def instruction_set(self) -> str:
        return self._kernels.instruction_set

    def multiply(
        self,
        x: torch.Tensor,
        experts: torch.Tensor | None = None,
        begins: torch.Tensor | None = None,
        instruction_set: str | None = None,
    ) -> torch.Tensor:
        """x W^T: [rows, in], in the order of the codes, to [rows, out].

        With `experts` rows begins[i] to begins[i + 1] are multiplied with the matrix experts[i], both int64.
        """
        values = x.to(torch.float32).contiguous()
        out = values.new_empty((len(x), self._outputs))
        self._kernels.library.mull_product(
            ctypes.byref(self._matrix),
            values.data_ptr(),
            out.data_ptr(),
            len(x),
            None if experts is None else experts.data_ptr(),
            None if begins is None else begins.data_ptr(),
            0 if experts is None else len(experts),
            INSTRUCTION_SETS.index(instruction_set or self.instruction_set),
            torch.get_num_threads(),
        )
        return out.to(x.dtype)


def used_for(matrices: Iterable[Quantized]) -> str | None:
    """The instruction set of the kernels that multiply with these; None where torch does with one of them."""
    found = [ready(matrix) for matrix in matrices]
    return next((one.instruction_set for one in found if one), None) if all(found) else None


def ready(matrix: Quantized) -> Ready | None:
    """How a kernel multiplies with it; None where none can. Worked out once for each matrix.

    The first call of all may build the kernels, for seconds.
    """
    remembered = vars(matrix)
    if _READY not in remembered:
        remembered[_READY] = _ready(matrix)
    found: Ready | None = remembered[_READY]
    return found


def _ready(matrix: Quantized) -> Ready | None:
    unit = _UNITS[matrix.kind]
    if (
        matrix.codes.device.type != "cpu"
        or not matrix.codes.is_contiguous()
        or matrix.inputs % unit
        or (matrix.group % unit and matrix.group < matrix.inputs)
        or (found := kernels()) is None
    ):
        return None
    scales = matrix.scales.contiguous()
    zeros = None if matrix.zeros is None else matrix.zeros.contiguous()
    known = _Matrix(
        matrix.codes.data_ptr(),
        scales.data_ptr(),
        None if zeros is None else zeros.data_ptr(),
        matrix.inputs,
        matrix.outputs,
        matrix.group,
        _KINDS[matrix.kind],
        scales.dtype == torch.float16,
    )
    return Ready(known, matrix.outputs, (matrix.codes, scales, zeros), found)
