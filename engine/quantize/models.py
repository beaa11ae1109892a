"""Models in memory, to be gone through or compared: where they fit, in which dtype. Knows no quantization."""

from __future__ import annotations

from typing import Any

import torch

from engine.load.checkpoint import Checkpoint
from engine.load.errors import DoesNotFit
from engine.load.model import load_model
from engine.load.quantizer import Quantize
from engine.load.source import plain_values
from engine.protocol.quantize import Progress
from engine.quantize.pace import Emit
from engine.runtime.device import torch_device
from engine.runtime.memory import system_memory

_ROOM = 0.8
"""Of the free memory, what the weights may take."""
_HALF = {"F16": "fp16", "BF16": "bf16"}


def dtype_for(checkpoint: Checkpoint, device: str, models: int = 1) -> str:
    """fp32 where so many models of this size fit in it, else the checkpoint's own. Raises DoesNotFit."""
    free, count = system_memory(device).free * _ROOM, plain_values(checkpoint.source) * models
    if 4 * count <= free:
        return "fp32"
    half = _HALF.get(checkpoint.source.dtype)
    if half is None or 2 * count > free:
        raise DoesNotFit(
            f"{checkpoint.folder} needs {(2 if half else 4) * count / 1e9:.1f} GB of memory for this, "
            f"{free / 1e9:.1f} GB can be used",
            "free memory, or use a smaller model" if device == "cpu" else "use --device cpu",
        )
    return half


def load(
    checkpoint: Checkpoint,
    device: str,
    emit: Emit,
    dtype: str | None = None,
    quantize: Quantize | None = None,
) -> Any:
    """The model with transformers' own attention and cache. Raises ModelError."""

    emit(Progress(stage="loading weights"))
    dtype = dtype or dtype_for(checkpoint, device)
    attention = "sdpa" if getattr(checkpoint.model_class, "_supports_sdpa", False) else "eager"
    return load_model(checkpoint, dtype, device, attention, lambda *_: None, quantize)


def device_of(name: str | None) -> str:
    """torch's name of a device; the first GPU, or the CPU, where none is named. Raises ModelError."""
    if name == "cpu" or (name is None and not torch.cuda.is_available()):
        return "cpu"
    return torch_device(name or "cuda")
