"""What a model's parameters take in memory, quantized or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.nn.quant_modules import matrices_of
from engine.nn.quantized import Quantized


@dataclass(frozen=True)
class Sizes:
    """Of a model: all its parameters, their bytes, and the bytes of one weight of layers and head."""

    parameters: int
    nbytes: int
    weight_bytes: float
    head_bytes: float
    kinds: Mapping[str, int]
    """Quantized matrices by kind and inputs per scale, `u4-g32`; those of a layer's experts count as one."""


def sizes_of(model: Any) -> Sizes:
    """Count each parameter once, tied or not."""
    head = model.get_output_embeddings()
    everything = list(_sizes(model))
    of_head = list(_sizes(head)) if head is not None else []
    embedding = list(_sizes(model.get_input_embeddings()))
    apart = {key for key, _, _ in of_head + embedding}
    matrices = [(count, size) for key, count, size in everything if key not in apart and count > 0]
    return Sizes(
        parameters=sum(count for _, count, _ in everything),
        nbytes=sum(size for _, _, size in everything),
        weight_bytes=_each(matrices),
        head_bytes=_each([(count, size) for _, count, size in of_head]),
        kinds=Counter(_kind(matrix) for matrix in matrices_of(model)),
    )


def _sizes(module: nn.Module) -> Iterator[tuple[int, int, int]]:
    """(identity, elements, bytes) of what a module and those in it hold."""
    for parameter in module.parameters():
        yield id(parameter), parameter.numel(), parameter.nbytes
    for matrix in matrices_of(module):
        yield id(matrix), matrix.elements, matrix.nbytes


def _kind(matrix: Quantized) -> str:
    return f"{matrix.kind}-g{matrix.group}" if matrix.group < matrix.inputs else f"{matrix.kind}-row"


def _each(sizes: list[tuple[int, int]]) -> float:
    elements = sum(count for count, _ in sizes)
    return sum(size for _, size in sizes) / elements if elements else 0.0
