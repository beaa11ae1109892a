"""Listens to a backend's forwards, and holds its thread up so that a test decides what runs together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from engine.backend import Account, Node
from engine.runtime.local import LocalBackend
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence as Sequence_

WAIT_S = 60
"""Seconds after which a test that hangs is given up."""


@dataclass
class Forwards:
    """What a backend put through its model while it was listened to; the books were right each time."""

    rows: list[list[Row]] = field(default_factory=list)
    """Of each forward that succeeded, in order."""
    logits: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    """Of each sequence, by `born`: after how many of its ids the model predicted what."""
    before: list[Callable[[int], None]] = field(default_factory=list)
    """Called on the engine's thread before each attempt at a forward, with the attempt's number."""
    attempts: int = 0
    broken: list[str] = field(default_factory=list)
    """What check_integrity found."""

    def tokens(self, node: Node) -> int:
        """How many were forwarded for a node."""
        return sum(len(row.ids) for rows in self.rows for row in rows if row.sequence is node)

    def together(self, *nodes: Node) -> int:
        """In how many forwards these nodes all were."""
        wanted = {id(node) for node in nodes}
        return sum(wanted <= {id(row.sequence) for row in rows} for rows in self.rows)


def live(backend: LocalBackend) -> list[Sequence_]:
    """The sequences that may hold pages. To be asked on the engine's thread."""
    return [sequence for sequence in list(backend._scheduler.ladder._alive) if not sequence.closed]


def listen(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> Forwards:
    """Hear each forward of a backend's scheduler from now on, and check the pool's books after each."""
    heard, run, pool = Forwards(), backend.runner.run, backend.runner.pool

    def listened(
        rows: Sequence[Row], interrupted: Callable[[], bool] | None = None
    ) -> list[torch.Tensor | None]:
        heard.attempts += 1
        for hook in list(heard.before):
            hook(heard.attempts - 1)
        parts = run(rows, interrupted)
        heard.rows.append(list(rows))
        for row, part in zip(rows, parts, strict=True):
            if part is not None:
                known = heard.logits.setdefault(row.sequence.born, {})
                first = row.sequence.cached - len(part) + 1
                known |= {first + at: logits.cpu().numpy() for at, logits in enumerate(part)}
        try:
            pool.check_integrity([sequence.table for sequence in live(backend)])
        except AssertionError as error:
            heard.broken.append(str(error))
        return parts

    monkeypatch.setattr(backend.runner, "run", listened)
    return heard


class Hold:
    """Lets the engine's thread wait, once it has done what was asked of it so far, until it is released."""

    def __init__(self, backend: LocalBackend) -> None:
        self.holds, self._released = threading.Event(), threading.Event()
        backend._scheduler.call(self._wait)

    def _wait(self) -> None:
        self.holds.set()
        self._released.wait(WAIT_S)

    def release(self) -> None:
        self._released.set()


async def until(condition: Callable[[], bool]) -> None:
    """Let others go on until something is so. Raises TimeoutError."""
    end = time.monotonic() + WAIT_S
    for _ in iter(condition, True):
        if time.monotonic() > end:
            raise TimeoutError
        await asyncio.sleep(0)


async def submitted() -> None:
    """Let tasks that were just created come to what they ask of the engine."""
    for _ in range(3):
        await asyncio.sleep(0)


@asynccontextmanager
async def held(backend: LocalBackend) -> AsyncIterator[None]:
    """What is submitted meanwhile is taken up at once, together."""
    hold = Hold(backend)
    try:
        yield
        await submitted()
    finally:
        hold.release()


def spent(accounts: Sequence[Account]) -> int:
    """Tokens forwarded according to the accounts."""
    return sum(entry.tokens for account in accounts for entry in account.forwarded)
