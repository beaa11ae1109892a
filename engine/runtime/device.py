"""torch's name of the device that a person named. Knows no models."""

from __future__ import annotations

import torch

from engine.load.errors import ModelError


def torch_device(name: str) -> str:
    """torch's name of a device that is there. Raises ModelError."""
    if name == "cpu":
        return name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"there is no device {name[:40]!r}", "use cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if (device.index or 0) >= count:
        raise ModelError(f"device {name} is not there: torch sees {count} CUDA devices", "use --device cpu")
    return f"{device.type}:{device.index or 0}"
