"""What the worker thread does for each primitive: forward, sample, keep the account. Knows no event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.backend import Extension, Forwarded, Kind, Lease, Sampler, StopReason, WindDown
from engine.protocol import Phase
from engine.runtime import sequence as sequences
from engine.runtime.runner import Runner
from engine.runtime.sampler import NotFinite, choose

CHUNK = 512
"""Tokens of a prompt per forward; cancellation is looked at in between."""

Cancelled = Callable[[], bool]
"""Whether the work is no longer wanted; asked before each forward."""


@dataclass(frozen=True)
class Rules:
    """What ends an extension besides its lease, and what bends its choices; see `Backend.extend`."""

    stop: frozenset[int]
    keep: frozenset[int]
    banned: frozenset[int]
    wind_down: WindDown | None


class Primitives:
    """The primitives as blocking calls over one runner; sequences are changed here and nowhere else."""

    def __init__(self, runner: Runner, context: int) -> None:
        self.runner = runner
        self._context = context

    def prefill(
        self,
        sequence: sequences.Sequence,
        ids: Sequence[int],
        cancelled: Cancelled,
        report: Callable[[int], None],
    ) -> None:
        """Take what is cached of a prompt and forward the rest in chunks; `report` gets the tokens done.

        The last token is always forwarded, for its logits.
        """
        if cancelled():
            return
        sequence.adopt(ids[:-1])
        report(sequence.cached)
        for begin in range(sequence.cached, len(ids), CHUNK):
            if cancelled():
                return
            end = min(begin + CHUNK, len(ids))
            sequence.ids += ids[begin:end]
            self._forward(sequence, "prefill", "prefilled", "prefill", logits=end == len(ids))
            report(end)

    def extend(
        self,
        sequence: sequences.Sequence,
        phase: Phase,
        lease: Lease,
        sampler: Sampler,
        rules: Rules,
        cancelled: Cancelled,
        deliver: Callable[[int], None],
    ) -> Extension:
        """Sample until a rule, the lease or the context ends it. The lease is read anew for each token."""
        sampled: list[int] = []
        wind_down = rules.wind_down
        while (reason := self._why_end(sequence, lease, cancelled)) is None:
            self._forward_pending(sequence)
            raised = _ramp(wind_down, lease, sequence.ids[-1]) if wind_down else None
            began = time.perf_counter()
            try:
                token = choose(
                    sequence.logits, sampler, len(sequence.ids), sequence.path, rules.banned, raised
                )
            except NotFinite:
                sequence.release(sound=False)
                raise
            sequence.account.sampling_s[phase] += time.perf_counter() - began
            lease.used += 1
            sequence.account.sampled_ns.append(time.monotonic_ns())
            if token in rules.stop and token not in rules.keep:
                return Extension(tuple(sampled), "stop", token)
            sequence.ids.append(token)
            sequence.pending_phase = phase
            sampled.append(token)
            if token in rules.keep:
                return Extension(tuple(sampled), "stop", token)
            deliver(token)
            if wind_down and token in wind_down.sentence_ends and lease.used >= wind_down.grace * lease.limit:
                reason = "limit"
                break
        return Extension(tuple(sampled), reason)

    def force(
        self, sequence: sequences.Sequence, phase: Phase, ids: Sequence[int], cancelled: Cancelled
    ) -> None:
        """Forward ids that were not sampled, after the pending one."""
        if not cancelled():
            self._forward_pending(sequence)
        for begin in range(0, len(ids), CHUNK):
            if cancelled():
                return
            sequence.ids += ids[begin : begin + CHUNK]
            self._forward(sequence, "force", "forced", phase)

    def _why_end(self, sequence: sequences.Sequence, lease: Lease, cancelled: Cancelled) -> StopReason | None:
        """Why no further token may be sampled, if so."""
        if cancelled():
            return "cancelled"
        if lease.ended:
            return "ended"
        if lease.used >= lease.limit:
            return "limit"
        return "context" if len(sequence.ids) >= self._context else None

    def _forward_pending(self, sequence: sequences.Sequence) -> None:
        """A pending id is forwarded under the phase in which it was sampled, whoever needs it now."""
        if sequence.pending:
            self._forward(sequence, "extend", sequence.pending_phase, sequence.pending_phase)

    def _forward(
        self,
        sequence: sequences.Sequence,
        primitive: Literal["prefill", "extend", "force"],
        kind: Kind,
        phase: Literal["prefill", "thinking", "answer"],
        *,
        logits: bool = True,
    ) -> None:
        """Put the sequence's ids that are not cached through the model, and enter them in its account."""
        context = sequence.cached
        ids = sequence.ids[context:]
        began = time.perf_counter()
        self.runner.forward(sequence, ids, logits=logits)
        seconds = time.perf_counter() - began
        sequence.account.forwarded.append(
            Forwarded(primitive, kind, phase, len(ids), context, int(logits), seconds)
        )


def _ramp(wind_down: WindDown, lease: Lease, last: int) -> tuple[int, float] | None:
    """What is added to the ending token's logit after `last`: rising linearly from `soft` to the limit."""
    past = lease.used / max(lease.limit, 1) - wind_down.soft  # its owner may lower the limit meanwhile
    if last not in wind_down.sentence_ends or past <= 0 or wind_down.soft >= 1:
        return None
    return wind_down.token, wind_down.strength * min(past / (1 - wind_down.soft), 1.0)
