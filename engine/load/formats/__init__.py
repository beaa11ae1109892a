"""The formats of quantized checkpoints, a file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.load.errors import ModelError
from engine.load.formats.scheme import Scheme

_SCHEMES: Mapping[str, Callable[[Mapping[str, Any]], Scheme]] = {}


def scheme_of(config: Path, quantization: object) -> Scheme:
    """The scheme that a config.json's `quantization_config` states. Raises ModelError for an unknown one."""
    settings = quantization if isinstance(quantization, dict) else {}
    method = settings.get("quant_method")
    known = _SCHEMES.get(method) if isinstance(method, str) else None
    if known is None:
        raise ModelError(
            f"{config}: quantized by {str(method or 'an unknown method')[:40]}, which mull does not read",
            f"use a repository with one of {', '.join(_SCHEMES)}, a GGUF file, or the unquantized model "
            "with --quant",
        )
    return known(settings)
