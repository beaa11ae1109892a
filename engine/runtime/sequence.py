"""A sequence: the ids of one path, where its keys and values lie, what was spent on it."""

from __future__ import annotations

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

    def reserve(self, tokens: int) -> None:
        """Hold enough pages for `tokens` tokens in all. Raises MemoryError."""
        missing = -(-tokens // PAGE) - len(self.table)
        if missing > 0:
            self.table += self.pool.allocate(missing)

    def release(self) -> None:
        """Give the pages back; idempotent."""
        if not self.closed:
            self.closed = True
            self.pool.release(self.table)
            self.table = []
            self.logits = None
