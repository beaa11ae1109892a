"""How far a long work is, and how much longer it takes. Knows no more of the work than its size."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.protocol.quantize import Progress

Emit = Callable[[Progress], None]

_EVERY_S = 0.2


class Pace:
    """Tells of a stage's items as they are done, and of the time left by what was done of its cost so far."""

    def __init__(self, emit: Emit, stage: str, items: int, cost: float) -> None:
        self._emit, self._stage = emit, stage
        self._items, self._cost = items, cost
        self._done, self._spent = 0, 0.0
        self._start = time.monotonic()
        self._told = -_EVERY_S
        self._tell()

    def tick(self, items: int) -> None:
        """Some more items are done that cost as many."""
        self.step(items, items)

    def step(self, cost: float, items: int = 1) -> None:
        """Some more items are done, at so much of the cost."""
        self._done += items
        self._spent += cost
        if self._done == self._items or time.monotonic() - self._told >= _EVERY_S:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        left = None
        if self._spent:
            left = (self._told - self._start) * max(self._cost / self._spent - 1, 0)
        self._emit(Progress(stage=self._stage, done=self._done, total=self._items, seconds_left=left))
