"""How the next token of a sequence is chosen, and what ends the choosing. Knows no forward and no drafts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.backend import Extension, Lease, Origin, Sampler, StopReason, WindDown
from engine.protocol import Phase
from engine.runtime import sequence as sequences
from engine.runtime.sampler import NotFinite, choose
from engine.runtime.watch import Watcher

Likely = Callable[[np.ndarray, int], int | None]
"""The id that an extension would choose from logits at a position; None for one that would end it."""


@dataclass(frozen=True)
class Rules:
    """What ends an extension besides its lease, and what bends its choices; see `Backend.extend`."""

    stop: frozenset[int] = frozenset()
    keep: frozenset[int] = frozenset()
    banned: frozenset[int] = frozenset()
    wind_down: WindDown | None = None


class Sampling:
    """One extension's choices: takes logits, appends tokens to the sequence, and knows when it is over."""

    def __init__(
        self,
        phase: Phase,
        lease: Lease,
        sampler: Sampler,
        rules: Rules,
        deliver: Callable[[int], None],
        watcher: Watcher | None = None,
    ) -> None:
        self.lease = lease
        self.reason: StopReason | None = None
        self.phase = phase
        self._sampler = sampler
        self._rules = rules
        self._last = rules.stop | rules.keep | rules.banned
        self._deliver = deliver
        self._watcher = watcher
        self._sampled: list[int] = []
        self._stop_id: int | None = None
        self._origin: Origin | None = None

    def goes_on(self, sequence: sequences.Sequence, context: int) -> bool:
        """Whether another token may be sampled."""
        if self.reason is None:
            if self.lease.cancelled:
                self.reason = "cancelled"
            elif self.lease.ended:
                self.reason = "ended"
            elif self.lease.used >= self.lease.limit or self._is_late():
                self.reason = "limit"
            elif len(sequence.ids) >= context:
                self.reason = "context"
        return self.reason is None

    def _is_late(self) -> bool:
        until_ns = self.lease.until_ns
        return until_ns is not None and bool(self._sampled) and time.monotonic_ns() >= until_ns

    def take(self, sequence: sequences.Sequence, logits: torch.Tensor | np.ndarray) -> int | None:
        """Choose the next token and append it; None where that ended the extension. Raises NotFinite."""
        lease, rules = self.lease, self._rules
        began = time.perf_counter()
        row = logits.cpu().numpy() if isinstance(logits, torch.Tensor) else logits
        raised = _ramp(rules.wind_down, lease, sequence.ids[-1]) if rules.wind_down else None
        try:
            token = choose(row, self._sampler, len(sequence.ids), sequence.path, rules.banned, raised)
        except NotFinite:
            sequence.release(sound=False)
            raise
        if self._watcher is not None:
            self._watcher.see(torch.as_tensor(logits), token)
        sequence.account.sampling_s[self.phase] += time.perf_counter() - began
        lease.used += 1
        sequence.account.sampled_ns.append(time.monotonic_ns())
        origin = self._noted(sequence, float(row[token]), raised)
        if token in rules.stop and token not in rules.keep:
            self.reason, self._stop_id, origin.dropped = "stop", token, token
            return None
        sequence.ids.append(token)
        origin.end = len(sequence.ids)
        sequence.pending_phase = self.phase
        self._sampled.append(token)
        if token in rules.keep:
            self.reason, self._stop_id = "stop", token
            return None
        self._deliver(token)
        wind_down = rules.wind_down
        if wind_down and token in wind_down.sentence_ends and lease.used >= wind_down.grace * lease.limit:
            self.reason = "limit"
            return None
        return token

    def _noted(self, sequence: sequences.Sequence, logit: float, raised: tuple[int, float] | None) -> Origin:
        """The passage that a token was chosen for, with what it was chosen by."""
        at = len(sequence.ids)
        if self._origin is None:
            self._origin = Origin(self.phase, at, at, self._sampler, self._rules.banned)
            sequence.origins.append(self._origin)
        self._origin.logits += logit
        if raised is not None:
            self._origin.raised.append((at, *raised))
        return self._origin

    def likely(self, sequence: sequences.Sequence) -> Likely:
        """What would be chosen from a guesser's logits, by the same randomness."""
        rules = self._rules

        def choice(logits: np.ndarray, position: int) -> int | None:
            token = choose(logits, self._sampler, position, sequence.path, rules.banned)
            return None if token in rules.stop or token in rules.keep else token

        return choice

    def useful(self, drafts: Sequence[int]) -> tuple[int, ...]:
        """Drafts up to the first that nothing could follow, or that cannot come."""
        last = next((at for at, token in enumerate(drafts) if token in self._last), None)
        return tuple(drafts[:last])

    def result(self) -> Extension:
        """What was sampled, once it is over."""
        assert self.reason is not None
        watched = self._watcher.seen() if self._watcher is not None else ()
        return Extension(tuple(self._sampled), self.reason, self._stop_id, watched)


def _ramp(wind_down: WindDown, lease: Lease, last: int) -> tuple[int, float] | None:
    """What is added to the ending token's logit after `last`: rising linearly from `soft` to the limit."""
    past = lease.used / max(lease.limit, 1) - wind_down.soft  # its owner may lower the limit meanwhile
    if last not in wind_down.sentence_ends or past <= 0 or wind_down.soft >= 1:
        return None
    return wind_down.token, wind_down.strength * min(past / (1 - wind_down.soft), 1.0)
