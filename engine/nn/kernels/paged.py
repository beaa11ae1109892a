"""Attention over pages on a processor, by the kernel of attention.c: a forward's tokens in one call a layer.

A token's attention has the same bits whatever is computed with it and on however many threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.nn.kernels.build import INSTRUCTION_SETS, Kernels, kernels

_PAGE = 64
"""Tokens of a page, as attention.c has it."""
_UNIT = 16
"""A head's width is in a multiple of it."""


class _Cache(ctypes.Structure):
    """As in attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "width", "slots")),
    )


class _Tokens(ctypes.Structure):
    """As in attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("positions", "begins", "tables")),
        *((name, ctypes.c_int64) for name in ("count", "longest")),
    )


@dataclass(frozen=True)
class Tokens:
    """A forward's tokens as the kernel takes them."""

    _known: _Tokens
    _parts: tuple[torch.Tensor, ...]
    """Kept alive: the kernel has but their addresses."""

    def __len__(self) -> int:
        return int(self._known.count)

    @staticmethod
    def of(segments: Sequence[tuple[Sequence[int], int, int]]) -> Tokens:
        """Of each segment the pages, the position of its first token, and how many there are."""
        positions: list[int] = []
        begins: list[int] = []
        tables: list[int] = []
        for table, start, length in segments:
            positions += range(start, start + length)
            begins += [len(tables)] * length
            tables += table
        parts = tuple(torch.tensor(part, dtype=torch.int64) for part in (positions, begins, tables))
        known = _Tokens(*(part.data_ptr() for part in parts), len(positions), max(positions, default=0) + 1)
        return Tokens(known, parts)


class PagedAttention:
    """The kernel over one memory of pages, [2, layers, kv_heads, pages, PAGE, width] float32."""

    def __init__(self, memory: torch.Tensor, found: Kernels) -> None:
        _, _, kv_heads, pages, page, width = memory.shape
        self._memory = memory  # kept alive
        self._cache = _Cache(memory[0].data_ptr(), memory[1].data_ptr(), 0, kv_heads, width, pages * page)
        self._attend = found.library.mull_attend
        self.instruction_set = found.instruction_set

    def __call__(
        self,
        tokens: Tokens,
        layer: int,
        query: torch.Tensor,
        scale: float,
        window: int | None,
        instruction_set: str | None = None,
    ) -> torch.Tensor:
        """query [heads, length, width], strided as it may be; returns [length, heads, width]."""
        heads, length, width = query.shape
        if query.stride(2) != 1 or query.stride(0) != width:
            query = query.transpose(0, 1).contiguous().transpose(0, 1)
        out = query.new_empty((length, heads, width))
        self._cache.heads = heads
        self._attend(
            ctypes.byref(self._cache),
            ctypes.byref(tokens._known),
            layer,
            query.data_ptr(),
            query.stride(1),
            out.data_ptr(),
            scale,
            window or 0,
            INSTRUCTION_SETS.index(instruction_set or self.instruction_set),
            torch.get_num_threads(),
        )
        return out


def paged_attention(memory: torch.Tensor) -> PagedAttention | None:
    """The kernel over these pages; None where none can.

    The first call of all may build the kernels, for seconds.
    """
    *_, page, width = memory.shape
    if (
        memory.device.type != "cpu"
        or memory.dtype != torch.float32
        or page != _PAGE
        or width % _UNIT
        or (found := kernels()) is None
    ):
        return None
    return PagedAttention(memory, found)
