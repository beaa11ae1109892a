"""What a config.json's `quantization_config` states, checked; and what tensors must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def stated(settings: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number. Raises ValueError."""
    value = settings.get(key, default)
    if type(value) is not int:
        raise ValueError(f"{key} {shown(value)}")
    return value


def stated_group(settings: Mapping[str, Any]) -> int:
    """Inputs that share a scale; -1 for all. Raises ValueError."""
    group = stated(settings, "group_size", -1)
    if group != -1 and group < 1:
        raise ValueError(f"group_size {group}")
    return group


def shown(value: object) -> str:
    """Something out of a file, in a message."""
    return repr(value)[:60]


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


def group_name(group: int) -> str:
    """How the inputs that share a scale are spoken of: `g128`."""
    return "per channel" if group == -1 else f"g{group}"
