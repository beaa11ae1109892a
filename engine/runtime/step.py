"""One forward of one sequence as the attention sees it: where keys go, which are read, what is masked.

Passed as a value through transformers' modelling code. Knows pages, not models.
"""

from __future__ import annotations

import torch

from engine.runtime.pages import PAGE, PagePool


class Step:
    """`length` tokens on top of `start` cached ones, over the pages in `table`.

    What does not depend on the layer is computed once: in a pool whose pages happen to lie in a row, reads
    and writes are views; else slots are gathered page by page.
    """

    def __init__(self, pool: PagePool, table: list[int], start: int, length: int) -> None:
        self.pool = pool
        self.start = start
        self.length = length
        self.total = start + length
        first = table[0]
        used = -(-self.total // PAGE)
        self._table = table[:used]
        # Position p lies in slot base + p where the pages lie in a row.
        self._base = first * PAGE if self._table == list(range(first, first + used)) else None
        self._slots: torch.Tensor | None = None
        self._gathers: dict[int, torch.Tensor] = {}
        self._masks: dict[int | None, torch.Tensor] = {}

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the new tokens' keys and values, [kv_heads, length, head_dim], into their slots."""
        pool = self.pool
        if self._base is not None:
            slot = self._base + self.start
            pool.keys[layer].narrow(1, slot, self.length).copy_(keys)
            pool.values[layer].narrow(1, slot, self.length).copy_(values)
            return
        if self._slots is None:
            positions = range(self.start, self.total)
            slots = [self._table[position // PAGE] * PAGE + position % PAGE for position in positions]
            self._slots = torch.tensor(slots, device=keys.device)
        pool.keys[layer].index_copy_(1, self._slots, keys)
        pool.values[layer].index_copy_(1, self._slots, values)

    def first_key(self, window: int | None) -> int:
        """The earliest position that the new tokens attend to; a window counts the token itself."""
        return 0 if window is None else max(0, self.start - window + 1)

    def read(self, layer: int, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values from `first_key(window)` to the last new token, [1, kv_heads, keys, head_dim]."""
        first = self.first_key(window)
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        if self._base is not None:
            slot, count = self._base + first, self.total - first
            return keys.narrow(1, slot, count)[None], values.narrow(1, slot, count)[None]
        page = first // PAGE
        pages = self._gathers.get(page)
        if pages is None:
            pages = self._gathers[page] = torch.tensor(self._table[page:], device=keys.device)
        seen = slice(first - page * PAGE, self.total - page * PAGE)
        return _gather(keys, pages)[None, :, seen], _gather(values, pages)[None, :, seen]

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """What is added to the scores, [length, keys] in the dtype of `like`; None where causality rules.

        None means: with one token nothing read is hidden; with none cached, and no window shorter than the
        chunk, token i sees the first i.
        """
        if self.length == 1 or (self.start == 0 and (window is None or self.length <= window)):
            return None
        mask = self._masks.get(window)
        if mask is None:
            query = torch.arange(self.start, self.total, device=like.device)[:, None]
            key = torch.arange(self.first_key(window), self.total, device=like.device)[None, :]
            hidden = key > query
            if window is not None:
                hidden |= key <= query - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[window] = mask.masked_fill_(hidden, float("-inf"))
        return mask


def _gather(pool: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """The pages' slots in the order given: [kv_heads, pages * PAGE, head_dim]."""
    heads, _, width = pool.shape
    return pool.view(heads, -1, PAGE, width).index_select(1, pages).view(heads, -1, width)
