"""The formats of quantized checkpoints, a file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.load.errors import ModelError
from engine.load.formats.awq import Awq
from engine.load.formats.compressed import CompressedTensors
from engine.load.formats.fp8 import Fp8
from engine.load.formats.gptq import Gptq
from engine.load.formats.scheme import Scheme

_SCHEMES: Mapping[str, Callable[[Mapping[str, Any]], Scheme]] = {
    "gptq": Gptq,
    "awq": Awq,
    "compressed-tensors": CompressedTensors,
    "fp8": Fp8,
}


def scheme_of(config: Path, quantization: object) -> Scheme:
    """The scheme that a config.json's `quantization_config` states. Raises ModelError for one not read."""
    settings = quantization if isinstance(quantization, dict) else {}
    method = settings.get("quant_method")
    known = _SCHEMES.get(method) if isinstance(method, str) else None
    try:
        if known is None:
            raise ValueError(str(method or "an unknown method")[:40])
        return known(settings)
    except ValueError as error:
        raise ModelError(
            f"{config}: quantized by {error}, which mull does not read",
            f"use a repository with one of {', '.join(_SCHEMES)}, a GGUF file, or the unquantized model "
            "with --quant",
        ) from error
