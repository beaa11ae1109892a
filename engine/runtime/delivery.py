"""Carries what the worker thread produces to callbacks on the event loop. Knows nothing of models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

INTERVAL = 0.025
"""Seconds between two deliveries: faster than an eye, slower than a small model's tokens."""


class Job:
    """One primitive's run on the worker thread; `abandoned` is set when nobody awaits it any more."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.abandoned = False


class TokenDelivery:
    """Collects tokens and hands them on in chunks: the first at once, the rest at most every `interval` s."""

    def __init__(
        self, job: Job, callback: Callable[[tuple[int, ...]], None] | None, interval: float = INTERVAL
    ) -> None:
        self._job = job
        self._interval = interval
        self._callback = callback
        self._waiting: list[int] = []
        self._next = 0.0

    def add(self, token: int) -> None:
        """Take a token; called on the worker thread."""
        if self._callback is None:
            return
        self._waiting.append(token)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            self.flush()

    def flush(self) -> None:
        """Hand on what waits. Callbacks scheduled here run before whoever awaits the job goes on."""
        if self._waiting and self._callback is not None:
            self._job.loop.call_soon_threadsafe(self._callback, tuple(self._waiting))
            self._waiting = []
