"""What an account has come to by now, in the counted units of a budget: added up as it grows."""

from __future__ import annotations

from typing import NamedTuple

from engine.backend import Account, Backend
from engine.meter.tally import step


class Spent(NamedTuple):
    """What went through the model, whatever for, and its FLOPs by the one cost formula."""

    tokens: int = 0
    flops: int = 0

    def __add__(self, other: object) -> Spent:
        assert isinstance(other, Spent)
        return Spent(self.tokens + other.tokens, self.flops + other.flops)


class Spending:
    """Adds up one account. What it has read it does not read again, but for the last entry: a forward that
    verified guesses is taken apart when it has ended.
    """

    def __init__(self, backend: Backend, account: Account) -> None:
        self._backend = backend
        self._account = account
        self._read = 0
        self._sum = Spent()

    def now(self) -> Spent:
        """All that was forwarded by now."""
        new = self._account.forwarded[self._read :]
        sums = [Spent(work.tokens, step(self._backend, "", work).flops) for work in new]
        self._sum = sum(sums[:-1], self._sum)
        self._read += len(sums[:-1])
        return sum(sums[-1:], self._sum)


def spent(backend: Backend, account: Account) -> Spent:
    """All of an account, once."""
    return Spending(backend, account).now()
