"""The formats of quantized checkpoints, a file each: from tensors to matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.load.formats.awq import Awq
from engine.load.formats.compressed import CompressedTensors
from engine.load.formats.fp8 import Fp8
from engine.load.formats.gptq import Gptq
from engine.load.formats.scheme import Scheme
from engine.load.schemes import make

_SCHEMES: Mapping[str, Callable[[Mapping[str, Any]], Scheme]] = {
    "gptq": Gptq,
    "awq": Awq,
    "compressed-tensors": CompressedTensors,
    "fp8": Fp8,
}


def scheme_of(config: Path, quantization: object) -> Scheme:
    """The scheme that a config.json's `quantization_config` states. Raises ModelError for one not read."""
    return make(_SCHEMES, config, quantization)
