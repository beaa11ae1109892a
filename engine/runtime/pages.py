"""The memory for keys and values: fixed pages of tokens that sequences borrow. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

PAGE = 64
"""Tokens per page."""


class PagePool:
    """Keys and values of all layers in pages; `keys[layer]` is [kv_heads, pages * PAGE, head_dim].

    The memory is reserved and not touched: on a CPU the system commits it as pages are written.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, pages: int, dtype: torch.dtype, device: str
    ) -> None:
        shape = (layers, kv_heads, pages * PAGE, head_dim)
        self.keys = list(torch.empty(shape, dtype=dtype, device=device))
        self.values = list(torch.empty(shape, dtype=dtype, device=device))
        self.pages = pages
        self.page_bytes = 2 * layers * kv_heads * PAGE * head_dim * dtype.itemsize
        self.free = list(reversed(range(pages)))
        """Pages that nobody holds; the next one handed out is the last."""
        self.touched = 0
        """Pages from the first to the highest ever handed out: what a CPU has committed at most."""
        self._held: set[int] = set()

    @property
    def held(self) -> int:
        """Pages that sequences hold now."""
        return len(self._held)

    def allocate(self, count: int) -> list[int]:
        """Hand out `count` pages, the lowest first. Raises MemoryError where there are not enough."""
        if count > len(self.free):
            raise MemoryError(f"{count} pages are needed and {len(self.free)} are free")
        taken = [self.free.pop() for _ in range(count)]
        self._held.update(taken)
        self.touched = max(self.touched, *(page + 1 for page in taken), 0)
        return taken

    def release(self, pages: Sequence[int]) -> None:
        """Take pages back. Sorting keeps what is handed out next physically in order."""
        if not self._held.issuperset(pages) or len(set(pages)) != len(pages):
            raise ValueError("a page was released that was not held")
        self._held.difference_update(pages)
        self.free.extend(pages)
        self.free.sort(reverse=True)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless each page is free or in exactly one of the page tables."""
        owned = [page for table in tables for page in table]
        if len(owned) != len(set(owned)):
            raise AssertionError("a page is in two tables")
        if set(owned) != self._held:
            raise AssertionError("the pages held are not those in the tables")
        if sorted(owned + self.free) != list(range(self.pages)):
            raise AssertionError("a page is lost, or both free and held")
