"""Whether to guess a sequence's next ids, and how many: what gives the most tokens per second, or none.

Weighs what forwards of each size took against how often guesses were right. Knows no model.
"""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol
from weakref import WeakKeyDictionary

from engine.backend import DraftInfo, Forwarded
from engine.runtime import sequence as sequences
from engine.runtime.lookup import NOTHING, Guess, Lookup
from engine.runtime.pages import PagePool
from engine.runtime.primitives import DRAFTS
from engine.runtime.sampling import Likely

COUNTS = (1, 3, 7, DRAFTS)
"""How many ids are guessed at once: few sizes, that each is soon measured."""
GAIN = 1.05
"""The least by which guessing has to promise more tokens per second: below, it is noise."""
RETRY = 32
"""Refusals after which a guess is tried all the same, for figures may have changed."""
KEPT = 5
"""Measurements of a size that its median is taken of."""
SUPPOSED_SLOPE = 0.12
"""What a further token adds to a forward of one, as its share, where that has not been measured yet."""
SUPPOSED_DRAFTS = 0.6
"""How often a draft model is taken to be right, before it has been tried."""
FADE = 0.98
"""What a guess counts after the next one: about fifty are remembered."""
WEIGHT = 4.0
"""Guesses that a supposition counts for."""


class Drafter(Protocol):
    """Computes guesses, which takes time."""

    @property
    def info(self) -> DraftInfo: ...

    @property
    def weight_bytes(self) -> int:
        """Of its own, beside the model's."""
        ...

    @property
    def pool(self) -> PagePool | None:
        """Its own."""
        ...

    def guess(self, sequence: sequences.Sequence, count: int, likely: Likely) -> list[int]:
        """Up to `count` ids; none while it has not yet read what the sequence says, or lacks memory."""
        ...

    def forget(self, sequence: sequences.Sequence) -> None:
        """Release what is held for a sequence; idempotent."""
        ...


class Costs:
    """Seconds of a forward by its number of tokens, as measured of late."""

    def __init__(self) -> None:
        self._measured: dict[int, deque[float]] = {}
        self._seconds: dict[int, float] = {}
        self._sizes: list[int] = []
        self._latest = (0, 0.0)

    def saw(self, tokens: int, seconds: float) -> None:
        """A forward took so long. Each of its sequences may tell."""
        if (tokens, seconds) == self._latest:
            return
        self._latest = tokens, seconds
        if tokens not in self._measured:  # the first of a size pays for setting it up
            self._measured[tokens] = deque(maxlen=KEPT)
            return
        self._measured[tokens].append(seconds)
        if tokens not in self._seconds:
            bisect.insort(self._sizes, tokens)
        self._seconds[tokens] = median(self._measured[tokens])

    def of(self, tokens: int) -> float | None:
        """Seconds of a forward of this size: measured, else on a line between or beyond its neighbors."""
        if not self._sizes or tokens in self._seconds:
            return self._seconds.get(tokens)
        at = bisect.bisect(self._sizes, tokens)
        below, above = self._sizes[max(at - 1, 0)], self._sizes[min(at, len(self._sizes) - 1)]
        if below < above:
            share = (tokens - below) / (above - below)
            return (1 - share) * self._seconds[below] + share * self._seconds[above]
        if at == 0:
            return self._seconds[above]
        least = self._sizes[0]
        slope = SUPPOSED_SLOPE * self._seconds[least]
        if least < below:
            slope = max(0.0, (self._seconds[below] - self._seconds[least]) / (below - least))
        return self._seconds[below] + slope * (tokens - below)


class Acceptance:
    """How often guesses were right of late, beginning with a supposition."""

    def __init__(self, supposed: float) -> None:
        self._right, self._all = WEIGHT * supposed, WEIGHT

    @property
    def rate(self) -> float:
        return self._right / self._all

    def saw(self, ids: Sequence[int], guess: Sequence[int]) -> None:
        """What came, and what had been guessed: a guess counts up to the first that was wrong."""
        for came, guessed in zip(ids, guess, strict=False):
            self._right = FADE * self._right + (came == guessed)
            self._all = FADE * self._all + 1
            if came != guessed:
                return


@dataclass
class _Known:
    """What is known of one sequence."""

    lookup: Lookup = field(default_factory=Lookup)
    found: dict[int, Acceptance] = field(default_factory=dict)
    """Of what was looked up, by the magnitude of the agreement."""
    drafts: Acceptance = field(default_factory=lambda: Acceptance(SUPPOSED_DRAFTS))
    ids: int = 0
    """Ids before the guesses under way, which are `guess` and `drafted`."""
    guess: Guess = NOTHING
    drafted: Sequence[int] = ()
    others: int = 0
    """Tokens that other sequences had in the forward before."""
    waited: int = 0
    """Times that nothing was drafted, and how many make a trial due."""
    patience: int = RETRY

    def acceptance(self) -> Acceptance:
        """How often guesses with an agreement such as the present one are right."""
        agreement = self.guess.agreement
        return self.found.setdefault(agreement.bit_length(), Acceptance(1 - 3 / (agreement + 2)))


class Speculation:
    """Implements `primitives.Speculator` over prompt lookup and, where there is one, a drafter."""

    def __init__(self, drafter: Drafter | None = None) -> None:
        self.costs = Costs()
        self.drafter = drafter
        self._draft_seconds: deque[float] = deque(maxlen=KEPT)
        """Per draft, of the latest."""
        self._sequences: WeakKeyDictionary[sequences.Sequence, _Known] = WeakKeyDictionary()
        self._refused = 0

    def propose(self, sequence: sequences.Sequence, most: int, likely: Likely) -> Sequence[int]:
        """The guesses that promise the most tokens per second; none where plain decoding does."""
        known = self._sequences.setdefault(sequence, _Known())
        known.ids, known.drafted = len(sequence.ids), ()
        known.guess = known.lookup.guess(sequence.ids, most)
        count, rate = 0, 0.0
        if known.guess.ids:
            chance = known.acceptance().rate
            count, rate = self._best(known.others, chance, len(known.guess.ids), 0.0)
            if not count and chance >= 0.5:
                self._refused += 1
                count = min(COUNTS[1], len(known.guess.ids)) if self._refused % RETRY == 0 else 0
        if self.drafter is not None:
            known.drafted = self._drafted(self.drafter, known, sequence, most, rate, likely)
        return known.drafted or known.guess.ids[:count]

    def verified(self, sequence: sequences.Sequence, forward: Forwarded) -> None:
        """Learn what a forward took, and which guesses were right, those not proposed included."""
        known = self._sequences.get(sequence)
        if known is None:
            return
        tokens = round(forward.tokens / forward.share)
        self.costs.saw(tokens, forward.seconds)
        known.others = tokens - forward.tokens
        came = sequence.ids[known.ids :]
        if known.guess.ids:
            known.acceptance().saw(came, known.guess.ids)
        if known.drafted:
            known.drafts.saw(came, known.drafted)

    def forget(self, sequence: sequences.Sequence) -> None:
        """Release what is held for a sequence; idempotent."""
        self._sequences.pop(sequence, None)
        if self.drafter is not None:
            self.drafter.forget(sequence)

    def _drafted(
        self,
        drafter: Drafter,
        known: _Known,
        sequence: sequences.Sequence,
        most: int,
        rate: float,
        likely: Likely,
    ) -> Sequence[int]:
        """Drafts where they promise more than `rate`, or where it is time to try them again."""
        seconds = median(self._draft_seconds) if self._draft_seconds else 0.0
        count, promised = self._best(known.others, known.drafts.rate, most, seconds)
        if count:
            known.patience = RETRY
        if not count or promised <= rate:
            known.waited += 1
            if count or known.waited < known.patience:
                return ()
            known.patience *= 2
            count = min(COUNTS[1], most)
        known.waited = 0
        began = time.perf_counter()
        drafts = drafter.guess(sequence, count, likely)
        if drafts:
            self._draft_seconds.append((time.perf_counter() - began) / len(drafts))
        return drafts

    def _best(self, others: int, chance: float, most: int, each_s: float) -> tuple[int, float]:
        """How many guesses give the most tokens per second of all who share the forward, and how many.

        Each guess is right with this chance if the ones before it are, and takes `each_s` to make.
        """
        plain = self.costs.of(others + 1)
        if plain is None:
            return 0, 0.0
        best, rate = 0, GAIN * (others + 1) / plain
        expected, power = 1.0, 1.0
        last = 0
        for count in COUNTS:
            count = min(count, most)
            for _ in range(count - last):
                power *= chance
                expected += power
            last = count
            seconds = self.costs.of(others + 1 + count)
            assert seconds is not None  # as one size is known, so are all
            promised = (others + expected) / (seconds + count * each_s)
            if promised > rate:
                best, rate = count, promised
        return best, rate if best else 0.0
