"""Guesses by computing: another model's, or the first layers' of the same. Knows not when it pays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from engine.backend import DraftInfo, Forwarded
from engine.runtime.ladder import out_of_memory
from engine.runtime.runner import Row, Runner
from engine.runtime.sampler import NotFinite
from engine.runtime.sampling import Likely
from engine.runtime.sequence import Sequence

CHUNK = 512
"""Tokens of the text before that are read at once, instead of guessing: so an answer never waits for long."""


@dataclass
class _Follower:
    """A sequence in the draft model's pages; the first `agreed` ids are those of the one that it follows."""

    sequence: Sequence
    agreed: int


class DraftModel:
    """A smaller model that reads along, over pages of its own, and says what it would say.

    Speculative decoding (Leviathan et al., arXiv:2211.17192) with the sampler's own noise in place of
    rejection: model and draft choose alike where their distributions agree.
    """

    def __init__(
        self, info: DraftInfo, runner: Runner, context: int, vocabulary: int, weight_bytes: int
    ) -> None:
        """`context` tokens are read at most; `vocabulary` ids are known to both models."""
        self.info = info
        self.weight_bytes = weight_bytes
        self.pool = runner.pool
        self._runner = runner
        self._context = context
        self._vocabulary = vocabulary
        self._followers: WeakKeyDictionary[Sequence, _Follower] = WeakKeyDictionary()

    def guess(self, sequence: Sequence, count: int, likely: Likely) -> list[int]:
        """Up to `count` ids; none while the text is still read, few where memory or context is short."""
        count = min(count, self._context - len(sequence.ids))
        if count < 1:
            return []
        guesses: list[int] = []
        try:
            follower = self._following(sequence)
            unread = sequence.ids[follower.cached :]
            _forward(self._runner, sequence, follower, unread[:CHUNK])
            if len(unread) <= CHUNK:
                for token in _continued(self._runner, sequence, follower, count, likely, self._vocabulary):
                    guesses.append(token)
        except Exception as error:
            if not out_of_memory(error):
                raise
        return guesses

    def forget(self, sequence: Sequence) -> None:
        """Release the pages that follow a sequence; what they hold can be found again."""
        follower = self._followers.pop(sequence, None)
        if follower is not None:
            follower.sequence.release()

    def _following(self, sequence: Sequence) -> Sequence:
        """What follows a sequence, as far as both say the same; at least its last id is still to be read."""
        follower = self._followers.get(sequence)
        if follower is None:
            follower = self._followers[sequence] = self._begun(sequence)
        own, agreed = follower.sequence, follower.agreed
        while agreed < min(own.cached, len(sequence.ids) - 1) and own.ids[agreed] == sequence.ids[agreed]:
            agreed += 1
        follower.agreed = own.cached = agreed
        del own.ids[agreed:]
        own.trim()
        return own

    def _begun(self, sequence: Sequence) -> _Follower:
        """A follower that has read what another one, or an earlier one, has in common with it."""
        ids = sequence.ids[:-1]
        own = Sequence(self.pool)
        own.adopt(ids)
        for other, follower in self._followers.items():
            agreed = follower.agreed
            if own.cached < agreed <= len(ids) and other.ids[:agreed] == ids[:agreed]:
                own.release()
                table = self.pool.fork(follower.sequence.table, agreed)
                own = Sequence(self.pool, table=table, cached=agreed)
        own.ids = ids[: own.cached]
        return _Follower(own, own.cached)


class EarlyExit:
    """The model's own first layers, then its head: they write the same keys and values that verifying writes.

    Draft and verify (Zhang et al., arXiv:2309.08168), LayerSkip (Elhoushi et al., arXiv:2404.16710).
    """

    weight_bytes = 0
    pool = None
    """Weights and pages are the model's own."""

    def __init__(self, info: DraftInfo, runner: Runner) -> None:
        """`runner` runs the first layers over the model's own pages."""
        self.info = info
        self._runner = runner

    def guess(self, sequence: Sequence, count: int, likely: Likely) -> list[int]:
        """Up to `count` ids; none where the sequence is not in the pages, few where these are short."""
        pending = sequence.ids[sequence.cached :]
        if len(pending) != 1:
            return []
        ahead = Sequence(sequence.pool, table=sequence.table, cached=sequence.cached)
        guesses: list[int] = []
        try:
            _forward(self._runner, sequence, ahead, pending)
            for token in _continued(self._runner, sequence, ahead, count, likely, None):
                guesses.append(token)
        except Exception as error:
            if not out_of_memory(error):
                raise
        return guesses

    def forget(self, sequence: Sequence) -> None:
        """Nothing is held."""


def _forward(runner: Runner, sequence: Sequence, ahead: Sequence, ids: list[int]) -> None:
    """Put ids after what is `ahead`, at the expense of the sequence that it is for."""
    context, began = ahead.cached, time.perf_counter()
    runner.run([Row(ahead, ids)])
    ahead.ids += ids
    seconds = time.perf_counter() - began
    sequence.account.drafted.append(
        Forwarded("draft", "draft", sequence.pending_phase, len(ids), context, 1, seconds)
    )


def _continued(
    runner: Runner, sequence: Sequence, ahead: Sequence, count: int, likely: Likely, vocabulary: int | None
) -> Iterator[int]:
    """Up to `count` ids from what is predicted after `ahead` on, until one would end the text."""
    position, last = len(sequence.ids), len(sequence.ids) + count - 1
    while True:
        try:
            token = likely(ahead.logits[:vocabulary], position)
        except NotFinite:
            return
        if token is None:
            return
        yield token
        if position == last:
            return
        position += 1
        _forward(runner, sequence, ahead, [token])
