"""A sequence: the ids of one path, where its keys and values lie, what was spent on it."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Any

from engine.backend import Account, Kind, Origin
from engine.protocol import Phase
from engine.runtime.pages import PAGE
from engine.runtime.pool import Pool


@dataclass(eq=False)
class Sequence:
    """Implements `engine.backend.Node`. `cached` of its ids are in the pages.

    While it is at rest at most one is not, the last sampled one, unless it was pre-empted.
    """

    pool: Pool
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
    prompt: int = 0
    """How many ids the sequence was begun with; of a fork none."""
    parent: Sequence | None = None
    inherited: int = 0
    """How many ids of the parent's it was begun with."""
    origins: list[Origin] = field(default_factory=list)
    forks: int = 0
    """Branches made from here so far."""
    seen: int = 0
    """The most ids that were ever in the pages: what is forwarded again of these is recomputed."""
    born: int = field(default_factory=count().__next__)
    """The order in which sequences began: the latest gives way first."""
    closed: bool = False

    @property
    def begun(self) -> int:
        return self.inherited or self.prompt

    @property
    def pending(self) -> Kind | None:
        return self.pending_phase if len(self.ids) > self.seen else None

    def adopt(self, ids: Ids[int]) -> None:
        """Begin with as much of `ids` as the pool has from earlier sequences."""
        self.table, self.cached = self.pool.match(ids)
        self.account.cached = self.seen = self.cached

    def reserve(self, tokens: int) -> None:
        """Hold enough pages for `tokens` tokens in all. Raises MemoryError."""
        self.pool.grow(self.table, -(-tokens // PAGE))

    def trim(self) -> None:
        """Give back the pages behind the cached ids: what lay there was rejected."""
        pages = -(-self.cached // PAGE)
        self.pool.release(self.table[pages:])
        del self.table[pages:]

    def fork(self) -> Sequence:
        """Another sequence that goes on from here, on a path and with an account of its own.

        Where there is no memory to copy what cannot be shared, that is left to be computed again.
        Raises ValueError where it was released.
        """
        if self.closed:
            raise ValueError("a node that was cancelled cannot be forked")
        self.forks += 1
        cached = self.cached
        try:
            table = self.pool.fork(self.table, cached)
        except MemoryError:
            cached = self.pool.shareable(cached)
            table = self.pool.fork(self.table, cached)
        return Sequence(
            self.pool,
            ids=list(self.ids),
            table=table,
            cached=cached,
            logits=self.logits,
            pending_phase=self.pending_phase,
            path=_branch(self.path, self.forks),
            parent=self,
            inherited=len(self.ids),
            seen=self.seen,
        )

    def publish(self) -> None:
        """Let sequences that begin alike share the full pages while this one goes on."""
        self.pool.publish(self.table, self.ids[: self.cached])

    def branch(self) -> Sequence:
        """A fork to be thrown away: on the same path, charged to the same account."""
        fork = self.fork()
        self.forks -= 1
        fork.path, fork.account = self.path, self.account
        return fork

    def preempt(self) -> None:
        """Give the pages back, to be found or computed again when the sequence goes on."""
        self.pool.release(self.table, self.ids[: self.cached])
        self.table, self.cached = [], 0

    def rewind(self, tokens: int) -> None:
        """Drop what came after the first `tokens` ids, and the pages: others may share them by now."""
        if len(self.ids) > tokens:
            self.preempt()
            del self.ids[tokens:]
            self.seen = min(self.seen, tokens)

    def readopt(self) -> None:
        """After a pre-emption: take what is still there."""
        self.table, self.cached = self.pool.match(self.ids[: self.seen])

    def release(self, *, sound: bool = True) -> None:
        """Give the pages back; idempotent. Sequences that begin alike find them, if they are sound."""
        if not self.closed:
            self.closed = True
            if not sound:
                self.pool.forget(self.table)
            self.pool.release(self.table, self.ids[: self.cached] if sound else ())
            self.table = []
            self.logits = None


def _branch(path: int, number: int) -> int:
    """The name, of 64 bits, of the n-th branch of a path."""
    return int.from_bytes(blake2b(f"{path} {number}".encode(), digest_size=8).digest(), "big")
