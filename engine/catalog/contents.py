"""What a model holds, read from its configuration and the headers of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.load.errors import ModelError
from engine.load.gguf.config import config_of
from engine.load.gguf.header import read_header
from engine.load.gguf.names import parameters_of, quantization_of, stored_dtype
from engine.load.json_file import read_json
from engine.load.schemes import Settings, find_matrices, settings_of, stated_quantization
from engine.load.weights import Stored, check_weights
from profiles.shape import ModelShape, UnsupportedModel, shape_from_config

_POSITIONS = 2048
"""Where a configuration does not say, as most families in transformers have it."""


@dataclass(frozen=True)
class Contents:
    """Of a model that is not loaded. `stored` is safetensors' name of the dtype of most plain values."""

    shape: ModelShape
    longest: int
    """Positions that it was made for."""
    weights: str
    """How the weights are kept, as a person knows it."""
    stored: str
    plain: int
    """Values that are not quantized."""
    quantized_bytes: int

    def memory(self, itemsize: int) -> int:
        """Bytes of the weights once loaded, where a value that is not quantized takes `itemsize`."""
        return self.quantized_bytes + itemsize * self.plain


def read_contents(path: Path) -> Contents:
    """Of a folder or a GGUF file. Raises ModelError."""
    try:
        return _folder(path) if path.is_dir() else _gguf(path)
    except UnsupportedModel as error:
        raise ModelError(f"{path}: {error}") from error


def _gguf(path: Path) -> Contents:
    header = read_header(path, texts=False)
    config = config_of(header)
    parameters = parameters_of(header).values()
    stored = stored_dtype(parameters)
    return Contents(
        shape=shape_from_config(config),
        longest=config["max_position_embeddings"],
        weights=quantization_of(parameters) or f"gguf {stored}",
        stored=stored,
        plain=sum(parameter.elements for parameter in parameters if not parameter.kept),
        quantized_bytes=sum(parameter.memory(0) for parameter in parameters),
    )


def _folder(folder: Path) -> Contents:
    path = folder / "config.json"
    config = _config(path)
    shape = shape_from_config(config)
    quantization = stated_quantization(config)
    settings = settings_of(path, quantization) if quantization is not None else None
    tensors = check_weights(folder)
    matrices = find_matrices(path, settings, tensors) if settings else {}
    packed = {name for parts in matrices.values() for name in parts.values()}
    counts: Counter[str] = Counter()
    for tensor, stored in tensors.items():
        if tensor not in packed:
            counts[stored.dtype] += stored.elements
    most = counts.most_common(1)[0][0] if counts else "BF16"
    text = config.get("text_config")
    longest = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return Contents(
        shape=shape,
        longest=longest if isinstance(longest, int) and longest > 0 else _POSITIONS,
        weights=settings.name if settings else most.lower(),
        stored=most,
        plain=sum(counts.values()),
        quantized_bytes=_held(path, settings, tensors, matrices) if settings else 0,
    )


def _held(
    config: Path,
    settings: Settings,
    tensors: Mapping[str, Stored],
    matrices: Mapping[str, Mapping[str, str]],
) -> int:
    """Bytes in memory of the matrices that are quantized. Raises ModelError."""
    size = 0
    for matrix, parts in matrices.items():
        try:
            size += settings.held({part: tensors[name] for part, name in parts.items()})
        except (LookupError, ValueError, TypeError, ZeroDivisionError) as error:
            raise ModelError(f"{config}: {matrix} is not {settings.name}") from error
    return size


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ModelError(f"{path.parent} has no config.json and no GGUF file")
    return read_json(path)
