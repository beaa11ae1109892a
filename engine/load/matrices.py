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

    `matrix` is None after anything else, or where those joined are of different kinds.
    """

    def __init__(self, matrix: Quantized | None) -> None:
        self.matrix = matrix

    def to(self, *_: object, device: str | torch.device | None = None, **__: object) -> Passing:
        """On another device; what dtype it would have as a tensor is of no matter."""
        return self if device is None or self.matrix is None else Passing(self.matrix.to(device))

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Passing:
        dim = (kwargs or {}).get("dim", args[1] if len(args) > 1 else 0)
        parts = args[0] if args and isinstance(args[0], list | tuple) else ()
        matrices = [part.matrix for part in parts if isinstance(part, Passing) and part.matrix is not None]
        if not matrices or len(matrices) < len(parts):
            return cls(None)
        if function is torch.stack and dim == 0:
            return cls(stack(matrices))
        if function in (torch.cat, torch.concat) and dim in (len(matrices[0].shape) - 2, -2):
            return cls(join(matrices))
        return cls(None)
