"""Where a checkpoint's parameters come from: files, and what each of them gives under which name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from engine.load.errors import ModelError
from engine.load.formats import scheme_of
from engine.load.formats.scheme import Scheme
from engine.load.matrices import Lazy
from engine.load.schemes import find_matrices
from engine.load.tensor import outline, read_tensor
from engine.load.weights import check_weights, same_values
from engine.nn.quantized import Quantized


class Parameters(Protocol):
    """What a model is loaded from, under names that transformers knows or renames."""

    @property
    def quantization(self) -> str | None:
        """How its matrices are quantized, as a person knows it; None where they are not."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes in the files by parameter, under the names that `open` gives them."""
        ...

    def open(self, mapped: bool = True) -> Any:
        """A context with the parameters by name: each a `Lazy` or a slice of safetensors.

        Values that are not to stay as they are should not be `mapped`: their file's pages stay as long.
        """
        ...


class Source(Parameters, Protocol):
    """A checked checkpoint's parameters."""

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def dtype(self) -> str:
        """In which most of the values that are not quantized are stored, as safetensors names it: `BF16`."""
        ...

    @property
    def plain(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the parameters that are not quantized."""
        ...

    def outline(self) -> dict[str, Any]:
        """What `open` gives, but shapes without values: on the meta device, and nothing large is read."""
        ...


def plain_values(source: Source) -> int:
    """How many values of a checkpoint are not quantized."""
    return sum(math.prod(shape) for shape in source.plain.values())


class SafetensorsSource:
    """A folder in Hugging Face's format."""

    def __init__(self, folder: Path, quantization: object = None) -> None:
        """`quantization` is config.json's. Raises ModelError."""
        self._folder = folder
        self._tensors = check_weights(folder)
        self._scheme: Scheme | None = None
        self._matrices: dict[str, dict[str, str]] = {}
        if quantization is not None:
            config = folder / "config.json"
            self._scheme = scheme_of(config, quantization)
            self._matrices = find_matrices(config, self._scheme, self._tensors)
        taken = {name for parts in self._matrices.values() for name in parts.values()}
        self._plain = {name: stored for name, stored in self._tensors.items() if name not in taken}
        counts: Counter[str] = Counter()
        for stored in (self._plain or self._tensors).values():
            counts[stored.dtype] += stored.elements
        self.dtype = counts.most_common(1)[0][0]

    def drop_copy(self, name: str, of: str) -> bool:
        """Leave out a tensor that is stored under two names; False where those are of two different ones."""
        if not same_values(self._plain[name], self._plain[of]):
            return False
        del self._plain[name]
        return True

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(sorted({stored.file for stored in self._tensors.values()}))

    @property
    def quantization(self) -> str | None:
        return self._scheme.name if self._scheme else None

    @property
    def sizes(self) -> dict[str, int]:
        sizes = {name: stored.nbytes for name, stored in self._plain.items()}
        for matrix, parts in self._matrices.items():
            sizes[f"{matrix}.weight"] = sum(self._tensors[name].nbytes for name in parts.values())
        return sizes

    @property
    def plain(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self._plain.items()}

    def outline(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: outline(stored) for name, stored in self._plain.items()}
        known: dict[tuple[object, ...], Any] = {}
        for matrix, parts in self._matrices.items():
            found[f"{matrix}.weight"] = Lazy(partial(self._outlined, matrix, parts, known), 0)
        return found

    @contextmanager
    def open(self, mapped: bool = True) -> Iterator[dict[str, Any]]:
        sizes = self.sizes
        found: dict[str, Any] = {
            f"{matrix}.weight": Lazy(partial(self._read, matrix, parts), sizes[f"{matrix}.weight"])
            for matrix, parts in self._matrices.items()
        }
        with ExitStack() as stack:
            if mapped:
                files = {stored.file for stored in self._plain.values()}
                handles = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
                for name, stored in self._plain.items():
                    found[name] = handles[stored.file].get_slice(name)
            else:
                for name, stored in self._plain.items():
                    found[name] = Lazy(partial(read_tensor, stored), stored.nbytes)
            yield found

    def _read(self, matrix: str, parts: Mapping[str, str]) -> Quantized | torch.Tensor:
        return self._made(matrix, {part: read_tensor(self._tensors[name]) for part, name in parts.items()})

    def _outlined(
        self, matrix: str, parts: Mapping[str, str], known: dict[tuple[object, ...], Any]
    ) -> Quantized | torch.Tensor:
        """What `_read` gives, without values; `known` has it by shape: experts are alike by the thousand."""
        assert self._scheme is not None  # there are matrices
        stored = {part: self._tensors[name] for part, name in parts.items()}
        values = {part: read_tensor(stored[part]) for part in parts.keys() & self._scheme.deciding}
        key = (
            *((part, of.dtype, of.shape) for part, of in stored.items()),
            *((part, of.numpy().tobytes()) for part, of in sorted(values.items())),
        )
        if key not in known:
            known[key] = self._made(matrix, {part: outline(of) for part, of in stored.items()} | values)
        found = known[key]
        return replace(found) if isinstance(found, Quantized) else found  # what is one object is counted once

    def _made(self, matrix: str, tensors: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        """The matrix of its parts. Raises ModelError."""
        assert self._scheme is not None  # there are matrices
        try:
            return self._scheme.read(tensors)
        except (ValueError, RuntimeError, IndexError) as error:
            raise ModelError(
                f"{self._folder}: {matrix} is not {self._scheme.name}: {' '.join(str(error).split())[:200]}",
                "download the file again, or look for another quantization of this model",
            ) from error
