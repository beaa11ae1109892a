"""One forward over one or several sequences as the attention sees it: where keys go, what is read and masked.

Passed as a value through transformers' modelling code. Knows pages, not models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.nn.kernels.paged import Tokens
from engine.runtime.pages import PAGE, PagePool

SHARED_PAGES = 2
"""Pages that several rows must have in common for attention to read them once for all: fewer do not pay."""
LENGTH_BY_KERNEL = PAGE
"""Tokens of one sequence up to which a kernel takes them: it goes through them one by one."""

ALIKE = 4
"""Rows from which on, and pages up to which, attention over all of them at once is quicker than row by row:
it copies what they have in the cache, and computes the rest of their last page in vain."""


class Interrupted(Exception):
    """The forward was given up between two layers; no sequence has changed."""


class Segment:
    """`length` tokens of one sequence on top of `start` cached ones, over the pages in `table`."""

    def __init__(self, pool: PagePool, table: Sequence[int], start: int, length: int) -> None:
        self.pool = pool
        self.start = start
        self.length = length
        self.total = start + length
        self.table = list(table[: -(-self.total // PAGE)])
        first = self.table[0]
        # Position p lies in slot base + p where the pages lie in a row.
        in_a_row = self.table == list(range(first, first + len(self.table)))
        self.base = first * PAGE if in_a_row else None
        self._gathers: dict[int, torch.Tensor] = {}
        self._masks: dict[int | None, torch.Tensor] = {}

    def slots(self) -> list[int]:
        """Where the new tokens' keys and values go."""
        if self.base is not None:
            return list(range(self.base + self.start, self.base + self.total))
        return [self.table[at // PAGE] * PAGE + at % PAGE for at in range(self.start, self.total)]

    def first_key(self, window: int | None, position: int | None = None) -> int:
        """The earliest position that a token (the first new one) attends to; a window counts the token."""
        position = self.start if position is None else position
        return 0 if window is None else max(0, position - window + 1)

    def read(self, layer: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values from position `first` to the last new token, [1, kv_heads, keys, head_dim]."""
        storage = self.pool.storage
        if self.base is not None:
            return storage.read_run(layer, self.base + first, self.total - first)
        page = first // PAGE
        pages = self._gathers.get(page)
        if pages is None:
            pages = self._gathers[page] = torch.tensor(self.table[page:], device=storage.memory.device)
        return storage.read_pages(layer, pages, slice(first - page * PAGE, self.total - page * PAGE))

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


@dataclass(frozen=True)
class Shared:
    """Segments of one token whose sequences begin with the same pages, which lie in a row from slot `base`.

    `rows` are the tokens' indices in the step; `tails` are what each sequence has after these pages.
    """

    rows: list[int]
    base: int
    keys: int
    tails: list[Segment]


@dataclass(frozen=True)
class Alike:
    """Segments of one token whose sequences hold as many pages, for attention to all of them at once.

    `rows` are the tokens' indices in the step, `pages` the tables one after another, and `mask` hides what
    is not theirs of the keys from the first to the longest's last, [rows, 1, 1, keys]. From `least` keys on
    somebody has none: what lies there may be anything, not numbers even.
    """

    rows: torch.Tensor
    pages: torch.Tensor
    mask: torch.Tensor
    least: int


@dataclass(frozen=True)
class ByKernel:
    """What a kernel attends to: tokens, with their indices in the step, or None where these are all.

    What it is not for: `groups` that share a prefix, and the indices of the segments in `rest`.
    """

    tokens: Tokens
    rows: torch.Tensor | None
    groups: list[Shared]
    rest: list[int]


class Step:
    """Segments packed into one row of `length` tokens.

    With `exact`, each token attends by itself, so that its bits do not depend on what is computed with it.
    """

    def __init__(
        self,
        pool: PagePool,
        segments: Sequence[Segment],
        exact: bool = False,
        interrupted: Callable[[], bool] | None = None,
    ) -> None:
        self.pool = pool
        self.segments = segments
        self.length = sum(segment.length for segment in segments)
        self.exact = exact
        self._interrupted = interrupted
        self._slots: torch.Tensor | None = None
        self._positions: torch.Tensor | None = None
        self._shared: tuple[list[Shared], list[int]] | None = None
        self._alike: tuple[list[Alike], list[int]] | None = None
        self._by_kernel: dict[bool, ByKernel] = {}

    def begins(self) -> list[int]:
        """The index of each segment's first token, and the number of all tokens."""
        begins = [0]
        for segment in self.segments:
            begins.append(begins[-1] + segment.length)
        return begins

    def positions(self, device: torch.device) -> torch.Tensor:
        """The tokens' positions, [length]."""
        if self._positions is None:
            self._positions = torch.cat(
                [torch.arange(segment.start, segment.total) for segment in self.segments]
            ).to(device)
        return self._positions

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the new tokens' keys and values, [kv_heads, length, head_dim], into their slots.

        Raises Interrupted where the forward is not wanted any more.
        """
        if self._interrupted is not None and self._interrupted():
            raise Interrupted
        storage, alone = self.pool.storage, self.segments[0]
        if len(self.segments) == 1 and alone.base is not None:
            storage.write_run(layer, alone.base + alone.start, keys, values)
            return
        if self._slots is None:
            slots = [slot for segment in self.segments for slot in segment.slots()]
            self._slots = torch.tensor(slots, device=keys.device)
        storage.write_slots(layer, self._slots, keys, values)

    def shared(self) -> tuple[list[Shared], list[int]]:
        """Groups of rows that share leading pages, and the indices of the segments in no group."""
        if self._shared is None:
            self._shared = self._grouped()
        return self._shared

    def alike(self, like: torch.Tensor) -> tuple[list[Alike], list[int]]:
        """Of the segments that share nothing: groups of few pages each, with masks in the dtype of `like`,
        and the indices of the segments in no group.
        """
        if self._alike is None:
            self._alike = self._of_a_kind(like)
        return self._alike

    def by_kernel(self, windowed: bool) -> ByKernel:
        """How a kernel shares the work of a layer, with a window or without, with torch's operators."""
        found = self._by_kernel.get(windowed)
        if found is None:
            found = self._by_kernel[windowed] = self._for_kernel(windowed)
        return found

    def _for_kernel(self, windowed: bool) -> ByKernel:
        groups, alone = self.shared()
        if windowed:
            groups, alone = [], list(range(len(self.segments)))
        begins = self.begins()
        taken: list[int] = []
        rest: list[int] = []
        for index in sorted(alone):
            length = self.segments[index].length
            (taken if self.exact or length <= LENGTH_BY_KERNEL else rest).append(index)
        rows = None
        if len(taken) < len(self.segments):
            rows = torch.tensor([at for index in taken for at in range(begins[index], begins[index + 1])])
        segments = [self.segments[index] for index in taken]
        tokens = Tokens.of([(segment.table, segment.start, segment.length) for segment in segments])
        return ByKernel(tokens, rows, groups, rest)

    def _of_a_kind(self, like: torch.Tensor) -> tuple[list[Alike], list[int]]:
        by_pages: dict[int, list[int]] = {}
        rest = []
        for index in self.shared()[1]:
            segment = self.segments[index]
            if segment.length == 1 and len(segment.table) <= ALIKE and not self.exact:
                by_pages.setdefault(len(segment.table), []).append(index)
            else:
                rest.append(index)
        begins, groups = self.begins(), []
        for rows in by_pages.values():
            if len(rows) < ALIKE:
                rest += rows
                continue
            totals = torch.tensor([self.segments[row].total for row in rows], device=like.device)
            hidden = torch.arange(int(totals.max()), device=like.device) >= totals[:, None]
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            mask.masked_fill_(hidden, float("-inf"))
            pages = torch.tensor([self.segments[row].table for row in rows], device=like.device).flatten()
            tokens = torch.tensor([begins[row] for row in rows], device=like.device)
            groups.append(Alike(tokens, pages, mask[:, None, None], int(totals.min())))
        return groups, rest

    def _grouped(self) -> tuple[list[Shared], list[int]]:
        by_kernel = self.pool.storage.attention is not None
        begins = self.begins()
        by_first: dict[int, list[int]] = {}
        rest = []
        for index, segment in enumerate(self.segments):
            if segment.length == 1 and not self.exact:
                by_first.setdefault(segment.table[0], []).append(index)
            else:
                rest.append(index)
        groups = []
        for rows in by_first.values():
            tables = [self.segments[row].table for row in rows]
            pages = _run_in_common(tables)
            scattered = len(rows) == 1 and self.segments[rows[0]].base is None and not by_kernel
            # a tail is never empty: the page of the token itself is its sequence's own
            pages = min(pages, *(len(table) - 1 for table in tables))
            if pages < SHARED_PAGES or not (len(rows) > 1 or scattered):
                rest += rows
                continue
            tails = []
            for row, table in zip(rows, tables, strict=True):
                whole = self.segments[row]
                tails.append(Segment(self.pool, table[pages:], whole.start - pages * PAGE, 1))
            tokens = [begins[row] for row in rows]
            groups.append(Shared(tokens, tables[0][0] * PAGE, pages * PAGE, tails))
        return groups, rest


def _run_in_common(tables: Sequence[Sequence[int]]) -> int:
    """How many pages all tables begin with that also lie in a row."""
    first, count = tables[0][0], 0
    while all(count < len(table) and table[count] == first + count for table in tables):
        count += 1
    return count
