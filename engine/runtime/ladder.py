"""Who gives way where memory runs short, rung by rung; each step down is noted in the accounts it touches.

Idle prefixes go first, by themselves, as pages are taken. Then probes are discarded; sequences that began
later are pre-empted, to be computed again; prompts go in smaller chunks; samples end early; and at last the
answer ends with what there is. Knows pages and sequences, not the model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.runtime.pages import PAGE, PagePool
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence

if TYPE_CHECKING:
    from engine.runtime.scheduler import Work

SMALLEST_CHUNK = 16
"""Tokens below which a chunk of a prompt is not cut further."""


class Ladder:
    """Finds pages for the rows of a forward, and shrinks forwards that the allocator refuses."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._alive: weakref.WeakSet[Sequence] = weakref.WeakSet()
        self._cap: int | None = None
        """Tokens of prompts per forward, since one failed."""

    def watch(self, sequence: Sequence) -> None:
        """A sequence that may be pre-empted."""
        self._alive.add(sequence)

    def note(self, sequence: Sequence, event: str) -> None:
        """Say in a sequence's account what was done; once in a row."""
        degradations = sequence.account.degradations
        if not degradations or degradations[-1] != event:
            degradations.append(event)

    def restore(self, sequence: Sequence) -> bool:
        """Where a sequence was pre-empted, take what is still there of it; whether it was."""
        if sequence.closed or sequence.table or not sequence.seen:
            return False
        sequence.readopt()
        return True

    def chunk(self, tokens: int) -> int:
        """The tokens of prompts that a forward may have."""
        return tokens if self._cap is None else min(tokens, self._cap)

    def fit(
        self, rows: list[tuple[Work, Row]], works: list[Work], stop: Callable[[Work], None]
    ) -> list[tuple[Work, Row]]:
        """The rows for which pages could be had; the pages are reserved. `stop` ends a work for good."""
        fitting: list[tuple[Work, Row]] = []
        if self._cap is not None:
            rows = [(work, row.without_drafts()) for work, row in rows]
        for work, row in sorted(rows, key=lambda pair: pair[0].sequence.born):
            if work not in works:  # it gave way to one before it
                continue
            found = self._reserve(work, row, works, stop, {kept.sequence for kept, _ in fitting})
            if found is not None:
                fitting.append((work, found))
        if rows and not fitting and works:
            latest = max(works, key=lambda work: work.sequence.born)
            last = len(works) == 1
            self.note(
                latest.sequence, "out of memory: the answer ends here" if last else "a sample ended early"
            )
            stop(latest)
            latest.sequence.preempt()
        return fitting

    def _reserve(
        self, work: Work, row: Row, works: list[Work], stop: Callable[[Work], None], kept: set[Sequence]
    ) -> Row | None:
        sequence = row.sequence
        while True:
            try:
                sequence.reserve(sequence.cached + len(row.ids))
                return row
            except MemoryError:
                pass
            if row.drafts:  # nobody gives way to a guess
                row = row.without_drafts()
                continue
            if self._discard_probe(work, works, stop) or self._preempt(work, works, kept):
                continue
            if len(row.ids) <= SMALLEST_CHUNK or row.logits > 1:
                return None
            half = max(SMALLEST_CHUNK, min(len(row.ids) // 2, self._pool.available * PAGE))
            self.note(sequence, "smaller chunks of the prompt")
            row = replace(row, ids=row.ids[:half], logits=0, last=False)

    def _discard_probe(self, work: Work, works: list[Work], stop: Callable[[Work], None]) -> bool:
        probes = [other for other in works if other.is_probe and other is not work]
        if not probes:
            return False
        latest = max(probes, key=lambda probe: probe.sequence.born)
        self.note(work.sequence, "a probe was discarded")
        stop(latest)
        latest.sequence.release()
        return True

    def _preempt(self, work: Work, works: list[Work], kept: set[Sequence]) -> bool:
        """Take the pages of a sequence that is not in this forward: the latest at rest, or at work if it is later."""
        active = {other.sequence for other in works}
        candidates = [
            other
            for other in self._alive
            if other.table
            and not other.closed
            and other is not work.sequence
            and other not in kept
            and (other not in active or other.born > work.sequence.born)
        ]
        if not candidates:
            return False
        victim = max(candidates, key=lambda other: (other not in active, other.born))
        self.note(victim, f"pre-empted: {victim.cached} tokens gave way")
        victim.preempt()
        return True

    def forward_failed(self, rows: list[tuple[Work, Row]]) -> list[Work]:
        """The allocator refused a forward: smaller chunks from now on. Those for whom there is no hope."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        largest = max(len(row.ids) for _, row in rows)
        for work, _ in rows:
            self.note(work.sequence, "an allocation failed: smaller forwards")
        if largest > SMALLEST_CHUNK or any(row.drafts for _, row in rows):
            self._cap = max(SMALLEST_CHUNK, largest // 2)
            return []
        latest = max(rows, key=lambda pair: pair[0].sequence.born)[0]
        self.note(
            latest.sequence,
            "out of memory: the answer ends here" if len(rows) == 1 else "a sample ended early",
        )
        return [latest]

    def forward_succeeded(self) -> None:
        """Memory may be there again: let chunks grow."""
        if self._cap is not None:
            self._cap *= 2
            if self._cap >= 512:
                self._cap = None


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch says so by several types."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
