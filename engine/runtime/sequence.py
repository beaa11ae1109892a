"""A sequence: the ids of one path, where its keys and values lie, what was spent on it."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Any

from engine.backend import Account, Kind
from engine.protocol import Phase
from engine.runtime.pages import PAGE, PagePool


@dataclass(eq=False)
class Sequence:
    """Implements `engine.backend.Node`. `cached` of its ids are in the pages; at most one id is not yet."""

    pool: PagePool
    ids: list[int] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    table: list[int] = field(default_factory=list)
    """Page numbers in the order of the tokens."""
    cached: int = 0
    logits: Any = None
    """What the model predicts after the cached ids: [vocabulary]; None before the first forward."""
    pending_phase: Phase = "answer"
    """The phase under which the pending id was sampled."""
    path: int = 0
    """Names the branch in a tree of samples; part of the randomness."""
    closed: bool = False

    @property
    def pending(self) -> Kind | None:
        return self.pending_phase if len(self.ids) > self.cached else None

    def adopt(self, ids: Ids[int]) -> None:
        """Begin with as much of `ids` as the pool has from earlier sequences."""
        self.table, self.cached = self.pool.match(ids)
        self.ids = list(ids[: self.cached])
        self.account.cached = self.cached

    def reserve(self, tokens: int) -> None:
        """Hold enough pages for `tokens` tokens in all. Raises MemoryError."""
        self.pool.grow(self.table, -(-tokens // PAGE))

    def fork(self) -> Sequence:
        """Another sequence that goes on from here, with an account of its own. Raises MemoryError."""
        return Sequence(
            self.pool,
            ids=list(self.ids),
            table=self.pool.fork(self.table, self.cached),
            cached=self.cached,
            logits=self.logits,
            pending_phase=self.pending_phase,
            path=self.path,
        )

    def release(self, *, sound: bool = True) -> None:
        """Give the pages back; idempotent. Sequences that begin alike find them, if they are sound."""
        if not self.closed:
            self.closed = True
            if not sound:
                self.pool.forget(self.table)
            self.pool.release(self.table, self.ids[: self.cached] if sound else ())
            self.table = []
            self.logits = None
