"""What the tensors of a quantized matrix must be."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def need(
    parts: Mapping[str, torch.Tensor], name: str, *dtypes: torch.dtype, dims: int | None = 2
) -> torch.Tensor:
    """A part, of one of some dtypes and with so many dimensions, or any. Raises ValueError."""
    if name not in parts:
        raise ValueError(f"it has no {name}")
    part = parts[name]
    if dtypes and part.dtype not in dtypes:
        raise ValueError(f"its {name} is {part.dtype} instead of {dtypes[0]}")
    if (dims is not None and part.dim() != dims) or part.numel() == 0:
        raise ValueError(f"its {name} has the shape {tuple(part.shape)}")
    return part


def expect(name: str, part: torch.Tensor, *shape: int) -> None:
    """Raises ValueError where a part has another shape."""
    if tuple(part.shape) != shape:
        raise ValueError(f"its {name} has the shape {tuple(part.shape)} instead of {shape}")
