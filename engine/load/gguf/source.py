"""A GGUF file as a checkpoint's parameters: quantized matrices stay so, under transformers' names."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.load.gguf.header import Header, Tensor
from engine.load.gguf.names import Parameter, parameters_of, quantization_of, stored_dtype
from engine.load.gguf.quants import read_matrix, read_values
from engine.load.matrices import Lazy
from engine.nn.quantized import Quantized, join


class GgufSource:
    """Implements `engine.load.source.Source`."""

    def __init__(self, header: Header) -> None:
        """Raises ModelError for a tensor that the architecture has no place for."""
        self.files = header.files
        self._parameters = parameters_of(header)

    @property
    def dtype(self) -> str:
        return stored_dtype(self._parameters.values())

    @property
    def quantization(self) -> str | None:
        return quantization_of(self._parameters.values())

    @property
    def sizes(self) -> dict[str, int]:
        return {name: parameter.nbytes for name, parameter in self._parameters.items()}

    @property
    def plain(self) -> dict[str, tuple[int, ...]]:
        return {name: found.shape for name, found in self._parameters.items() if not found.kept}

    def outline(self) -> dict[str, Any]:
        return {
            name: Lazy(partial(_outline, parameter), parameter.nbytes)
            for name, parameter in self._parameters.items()
        }

    @contextmanager
    def open(self, mapped: bool = True) -> Iterator[dict[str, Any]]:
        with ExitStack() as stack:
            maps = {path: stack.enter_context(_mapped(path)) for path in self.files}
            yield {
                name: Lazy(partial(_read, parameter, maps), parameter.nbytes)
                for name, parameter in self._parameters.items()
            }


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _outline(parameter: Parameter) -> Quantized | torch.Tensor:
    """What `_read` gives, without values; Q4_K is taken to need no more than float16 scales."""
    if not parameter.kept:
        return torch.empty(parameter.shape, device="meta")
    matrices = [
        read_matrix(torch.empty(t.nbytes, dtype=torch.uint8, device="meta"), t.type, t.shape)
        for t in parameter.tensors
    ]
    return join(matrices) if len(matrices) > 1 else matrices[0]


def _read(parameter: Parameter, maps: dict[Path, mmap.mmap]) -> Quantized | torch.Tensor:
    """The parameter as transformers has it: joined, its rows in order, its offset taken away."""
    if parameter.kept:
        matrices = [read_matrix(_bytes(t, maps), t.type, t.shape) for t in parameter.tensors]
        matrix = join(matrices) if len(matrices) > 1 else matrices[0]
        if matrix is not None:
            return matrix.select(_order(matrix.outputs, parameter.heads)) if parameter.heads else matrix
        return torch.cat([matrix.dequantize() for matrix in matrices], -2)
    values = [read_values(_bytes(t, maps), t.type, t.shape) for t in parameter.tensors]
    whole = torch.cat(values, -2) if len(values) > 1 else values[0]
    if parameter.heads:
        whole = whole[_order(len(whole), parameter.heads)]
    return whole - parameter.offset if parameter.offset else whole


def _bytes(tensor: Tensor, maps: dict[Path, mmap.mmap]) -> torch.Tensor:
    """A copy: the file may be closed before the model is."""
    with memoryview(maps[tensor.file]) as whole, whole[tensor.offset : tensor.offset + tensor.nbytes] as part:
        return torch.frombuffer(bytearray(part), dtype=torch.uint8)


def _order(rows: int, heads: int) -> torch.Tensor:
    """Where transformers' rows of a projection are in the file: it has each head's halves interleaved."""
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).flatten()
