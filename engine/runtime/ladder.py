"""Who gives way where memory runs short, rung by rung; each step down is noted in the accounts it touches.

What was kept of earlier answers goes first, as pages are taken. Then probes are discarded; sequences that
began later are pre-empted, to be computed again; prompts go in smaller chunks, and fewer sequences at once;
and at last one ends with what there is. Who began first goes first, so that somebody always gets on. Knows
pages and sequences, not the model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from engine.backend import EVICTED
from engine.runtime.pages import PAGE
from engine.runtime.pool import Pool
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence

if TYPE_CHECKING:
    from engine.runtime.scheduler import Work

SMALLEST_CHUNK = 16
"""Tokens below which a chunk of a prompt is not cut further for want of pages."""
PATIENCE = 8
"""Forwards that have to succeed before larger ones are tried again."""
LARGE = 1024
"""Tokens from which on the size of forwards is not held down any more."""


class Ladder:
    """Finds pages for the rows of a forward, and shrinks forwards that the allocator refuses."""

    def __init__(self, pool: Pool, stop: Callable[[Work], None]) -> None:
        """`stop` ends a work for want of memory, at once and for good."""
        self._pool = pool
        self._stop = stop
        self._alive: weakref.WeakSet[Sequence] = weakref.WeakSet()
        self._most: int | None = None
        """Tokens per forward, since one failed."""
        self._succeeded = 0
        """Forwards in a row."""
        self._latest: int | None = None
        """Who began after this waits: one found no pages, whoever began later having given way."""

    def watch(self, sequence: Sequence) -> None:
        """A sequence that may be pre-empted. On the engine's thread, as all here."""
        self._alive.add(sequence)

    def note(self, sequence: Sequence, event: str) -> None:
        """Say in a sequence's account what was done, once."""
        if event not in sequence.account.degradations:
            sequence.account.degradations.append(event)

    def may_run(self, works: list[Work]) -> list[Work]:
        """Those who need not wait for one that began before them; what is still there of them is taken."""
        latest = self._latest
        if latest is not None:
            works = [work for work in works if _born(work) <= latest] or works
        for work in works:
            sequence = work.sequence
            if sequence.seen and not sequence.table and not sequence.closed:
                sequence.readopt()
        return works

    def at_most(self, tokens: int) -> int:
        """The tokens that a forward may have."""
        return tokens if self._most is None else min(tokens, self._most)

    def fit(self, rows: list[tuple[Work, Row]], works: list[Work]) -> list[tuple[Work, Row]]:
        """The rows for which pages could be had; the pages are reserved. Who has to end leaves `works`."""
        fitting: list[tuple[Work, Row]] = []
        given_way: set[Sequence] = set()
        starved = None
        for work, row in sorted(rows, key=lambda pair: pair[0].sequence.born):
            if work not in works or work.sequence in given_way:
                continue
            kept = {other.sequence for other, _ in fitting}
            found = self._reserve(work, row, works, kept, given_way)
            if found is not None:
                fitting.append((work, found))
            elif work in works:
                starved = work
                break
        if starved is not None and not fitting and starved is _first(works):
            self.end(starved, works)
        # where nobody got on, the starved one took the place of one who began before it
        self._latest = None if starved is None else _born(starved) if fitting else _born(starved) - 1
        return [(work, row) for work, row in fitting if work in works]

    def end(self, work: Work, works: list[Work]) -> None:
        """The last rung: a sequence without memory to go on keeps its text, and gives its pages back."""
        self.note(
            work.sequence, "a sample ended early" if len(works) > 1 else "out of memory: the answer ends here"
        )
        self._stop(work)
        work.sequence.preempt()

    def _reserve(
        self,
        work: Work,
        row: Row,
        works: list[Work],
        kept: set[Sequence],
        given_way: set[Sequence],
    ) -> Row | None:
        """The row, or its beginning, with pages for it; None where there are none. `kept` stay."""
        sequence, wanted, idle = row.sequence, len(row.ids) - row.drafts, self._pool.idle
        while True:
            try:
                sequence.reserve(sequence.cached + len(row.ids))
            except MemoryError:
                if row.drafts:  # nobody gives way to a guess
                    row = row.without_drafts()
                    continue
                if work.is_probe:
                    self._discard(work)
                    return None
                if self._discard_a_probe(works):
                    continue
                if (victim := self._victim(work, works, kept)) is not None:
                    self.note(victim, f"pre-empted: {victim.cached} tokens gave way")
                    victim.preempt()
                    given_way.add(victim)
                    continue
                if len(row.ids) <= SMALLEST_CHUNK or row.logits > 1:
                    return None
                half = max(SMALLEST_CHUNK, min(len(row.ids) // 2, self._pool.available * PAGE))
                row = replace(row, ids=row.ids[:half], logits=0, last=False)
                continue
            if self._pool.idle < idle:
                self.note(sequence, EVICTED)
            if len(row.ids) < wanted:
                self.note(sequence, "smaller chunks of the prompt")
            return row

    def _discard_a_probe(self, works: list[Work]) -> bool:
        probes = [other for other in works if other.is_probe]
        if probes:
            self._discard(max(probes, key=_born))
        return bool(probes)

    def _discard(self, probe: Work) -> None:
        self.note(probe.sequence, "a probe was discarded")
        self._stop(probe)
        probe.sequence.release()

    def _victim(self, work: Work, works: list[Work], kept: set[Sequence]) -> Sequence | None:
        """Whose pages a work may have: the latest at rest, else the latest at work that began after it."""
        active = {other.sequence for other in works}
        candidates = [
            other
            for other in self._alive
            if other.table
            and other is not work.sequence
            and other not in kept
            and (other not in active or other.born > work.sequence.born)
        ]
        return max(candidates, key=lambda other: (other not in active, other.born), default=None)

    def forward_failed(self, rows: list[tuple[Work, Row]], works: list[Work]) -> None:
        """The allocator refused a forward: smaller ones from now on; who fails with one token alone ends."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tokens = sum(len(row.ids) for _, row in rows)
        for work, _ in rows:
            self.note(work.sequence, "an allocation failed: smaller forwards")
        if tokens == self._most == 1:
            self.end(rows[0][0], works)
        self._most, self._succeeded = max(1, tokens // 2), 0

    def forward_succeeded(self) -> None:
        """Memory may be there again: let forwards grow."""
        if self._most is None:
            return
        self._succeeded += 1
        if self._succeeded % PATIENCE == 0:
            self._most *= 2
            if self._most >= LARGE:
                self._most = None


def _born(work: Work) -> int:
    return work.sequence.born


def _first(works: list[Work]) -> Work:
    return min(works, key=_born)


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch says so by several types."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
