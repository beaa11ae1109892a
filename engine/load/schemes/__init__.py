"""How checkpoints say that they are quantized: a config.json's settings, checked. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from engine.load.errors import ModelError
from engine.load.schemes.awq import AwqSettings
from engine.load.schemes.compressed import CompressedSettings
from engine.load.schemes.fp8 import Fp8Settings
from engine.load.schemes.gptq import GptqSettings
from engine.load.weights import Stored


class Settings(Protocol):
    """Made from a config.json's `quantization_config`. Raises ValueError, naming what it states, where that
    is not read."""

    @property
    def name(self) -> str:
        """As a person knows it, with what was chosen: `gptq 4-bit g128`."""
        ...

    @property
    def marks(self) -> frozenset[str]:
        """The last parts of the names of tensors that only a quantized matrix has; any of them tells."""
        ...

    @property
    def parts(self) -> frozenset[str]:
        """The last parts of the names of all its tensors; what a matrix may lack is among them."""
        ...

    def held(self, stored: Mapping[str, Stored]) -> int:
        """Bytes in memory of the matrix of these tensors, unless their values have it become dense.

        Raises LookupError or ValueError where they make none.
        """
        ...


_Made = TypeVar("_Made", bound=Settings)
_SETTINGS: Mapping[str, Callable[[Mapping[str, Any]], Settings]] = {
    "gptq": GptqSettings,
    "awq": AwqSettings,
    "compressed-tensors": CompressedSettings,
    "fp8": Fp8Settings,
}


def stated_quantization(config: Mapping[str, Any]) -> object:
    """What a config.json says of how it is quantized; None where it is not."""
    return config.get("quantization_config") or config.get("quantization")  # MLX's name for it


def settings_of(config: Path, quantization: object) -> Settings:
    """What a config.json's `quantization_config` states. Raises ModelError for what is not read."""
    return make(_SETTINGS, config, quantization)


def make(
    known: Mapping[str, Callable[[Mapping[str, Any]], _Made]], config: Path, quantization: object
) -> _Made:
    """One of what is made by the names of methods. Raises ModelError for a method or settings not read."""
    settings = quantization if isinstance(quantization, dict) else {}
    method = settings.get("quant_method")
    found = known.get(method) if isinstance(method, str) else None
    try:
        if found is None:
            raise ValueError(str(method or "an unknown method")[:40])
        return found(settings)
    except ValueError as error:
        raise ModelError(
            f"{config}: quantized by {error}, which mull does not read",
            f"use a repository with one of {', '.join(known)}, a GGUF file, or the unquantized model "
            "with --quant",
        ) from error


def find_matrices(config: Path, settings: Settings, tensors: Iterable[str]) -> dict[str, dict[str, str]]:
    """A checkpoint's quantized matrices: names of their tensors in the files, by what part each is.

    Raises ModelError where there are none.
    """
    names = dict.fromkeys(tensors)
    split = (name.rpartition(".") for name in names)
    marked = dict.fromkeys(matrix for matrix, _, part in split if part in settings.marks)
    if not marked:
        raise ModelError(
            f"{config} says {settings.name}, but no tensor is quantized so",
            "download the model again, or look for another quantization of it",
        )
    return {
        matrix: {part: f"{matrix}.{part}" for part in settings.parts if f"{matrix}.{part}" in names}
        for matrix in marked
    }
