"""Quantized matrices on their way through transformers' loading, renamed and merged as tensors are.

transformers knows under which names a checkpoint keeps each of a model's parameters, and how the matrices of
single experts become one parameter. It is handed objects that answer as tensors do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from engine.nn.quantized import Quantized, join, stack


class Lazy:
    """A matrix of a checkpoint that is read when transformers asks for its values."""

    def __init__(self, read: Callable[[], Quantized | torch.Tensor], nbytes: int) -> None:
        self._read = read
        self.nbytes = nbytes
        """In the checkpoint."""

    def __getitem__(self, _: object) -> Passing | torch.Tensor:
        found = self._read()
        return Passing(found) if isinstance(found, Quantized) else found

    def get_dtype(self) -> str:
        """As safetensors' slices have it, of the matrix that it stands for."""
        return "F32"


class Passing:
    """A quantized matrix in the place of a tensor: can be moved, stacked and joined, and nothing else.

    Those that cannot be one quantized matrix become dense together. `matrix` is None after anything else.
    """

    def __init__(self, matrix: Quantized | None, dtype: torch.dtype | None = None) -> None:
        self.matrix = matrix
        self._dtype = dtype

    def to(
        self, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None, **_: object
    ) -> Passing:
        """On another device; `dtype` is what it will have if it becomes dense. An outline stays one."""
        moved = self.matrix
        if moved is not None and device is not None and not moved.codes.is_meta:
            moved = moved.to(device)
        return Passing(moved, dtype or self._dtype)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Passing | torch.Tensor:
        dim = (kwargs or {}).get("dim", args[1] if len(args) > 1 else 0)
        parts = args[0] if args and isinstance(args[0], list | tuple) else ()
        shapes = [_shape(part) for part in parts]
        combine: Callable[[Sequence[Quantized]], Quantized | None]
        if not shapes or not all(shapes):
            return cls(None)
        if function is torch.stack and dim == 0 and len(set(shapes)) == 1:
            combine = stack
        elif (
            function in (torch.cat, torch.concat)
            and len({(*shape[:-2], *shape[-1:]) for shape in shapes}) == 1
            and dim in (len(shapes[0]) - 2, -2)
        ):
            combine = join
        else:
            return cls(None)
        matrices = [part.matrix for part in parts if isinstance(part, Passing) and part.matrix is not None]
        whole = combine(matrices) if len(matrices) == len(parts) else None
        if whole is not None:
            return cls(whole, parts[0]._dtype)
        dense: torch.Tensor = function([_dense(part) for part in parts], *args[1:], **(kwargs or {}))
        return dense


def _shape(part: Passing | torch.Tensor) -> tuple[int, ...]:
    if isinstance(part, torch.Tensor):
        return tuple(part.shape)
    return part.matrix.shape if part.matrix is not None else ()


def _dense(part: Passing | torch.Tensor) -> torch.Tensor:
    if isinstance(part, torch.Tensor):
        return part
    assert part.matrix is not None  # it has a shape
    return part.matrix.dequantize(part._dtype or torch.float32)
