"""What a model's parameters take in memory, quantized or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.nn.quant_modules import holders


@dataclass(frozen=True)
class Sizes:
    """Of a model: all its parameters, their bytes, and the bytes of one weight of layers and head."""

    parameters: int
    nbytes: int
    weight_bytes: float
    head_bytes: float


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
    )


def _sizes(module: nn.Module) -> Iterator[tuple[int, int, int]]:
    """(identity, elements, bytes) of what a module and those in it hold."""
    for parameter in module.parameters():
        yield id(parameter), parameter.numel(), parameter.nbytes
    seen: set[int] = set()
    for holder in holders(module):
        if id(holder.matrix) not in seen:
            seen.add(id(holder.matrix))
            yield id(holder.matrix), holder.matrix.elements, holder.matrix.nbytes


def _each(sizes: list[tuple[int, int]]) -> float:
    elements = sum(count for count, _ in sizes)
    return sum(size for _, size in sizes) / elements if elements else 0.0
