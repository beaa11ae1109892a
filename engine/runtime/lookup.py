"""Guesses a sequence's next ids from its own: what followed where it last read alike. Knows ids only.

Prompt lookup (Saxena 2023; "Inference with Reference", arXiv:2304.04487).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

CANDIDATES = 8
"""Earlier places that are compared, the latest first."""
LONGEST = 32
"""Ids of agreement beyond which more say nothing."""


class Guess(NamedTuple):
    """Ids that may follow, and how many before them agree with the place that they were found at."""

    ids: list[int]
    agreement: int


NOTHING = Guess([], 0)


class Lookup:
    """An index over one sequence, which grows with it: each id is looked at once."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], int] = {}
        """By a pair of ids, where it ended last."""
        self._before: list[int] = []
        """By where a pair ends, where the same pair ended before; -1 for nowhere."""

    def guess(self, ids: Sequence[int], most: int) -> Guess:
        """Up to `most` ids that may follow `ids`, which begin with those of the call before."""
        self._take_in(ids)
        end = len(ids) - 1
        best = length = 0
        place = self._before[end] if end > 0 else -1
        for _ in range(CANDIDATES):
            if place < 0:
                break
            agreement = _agreement(ids, place, end)
            if agreement > length:
                best, length = place, agreement
                if length == LONGEST:
                    break
            place = self._before[place]
        if not length:
            return NOTHING
        return Guess(_continuation(ids, best, length, most), length)

    def _take_in(self, ids: Sequence[int]) -> None:
        last, before = self._last, self._before
        if not before and ids:
            before.append(-1)
        for end in range(len(before), len(ids)):
            pair = (ids[end - 1], ids[end])
            before.append(last.get(pair, -1))
            last[pair] = end


def _agreement(ids: Sequence[int], place: int, end: int) -> int:
    """How many ids up to `place` equal those up to `end`; of a pair that is known to be equal, 2 at least."""
    length = 2
    while length < LONGEST and length <= place and ids[place - length] == ids[end - length]:
        length += 1
    return length


def _continuation(ids: Sequence[int], place: int, agreement: int, most: int) -> list[int]:
    """What followed the place; where it agrees over a whole period, the period goes on."""
    found = list(ids[place + 1 : place + 1 + most])
    period = len(ids) - 1 - place
    if agreement >= period:
        found = (found * (most // period + 1))[:most]
    return found
