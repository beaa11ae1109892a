"""What each primitive does with its sequence, as a generator: it yields what it wants, and gets logits.

Knows nothing of other sequences, threads or pages' whereabouts: the scheduler sees to these.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch

from engine.backend import Extension, Forwarded, Kind, Origin, Primitive, Probe
from engine.protocol import Phase
from engine.runtime import sequence as sequences
from engine.runtime.sampling import Likely, Sampling
from engine.runtime.watch import Watcher


@dataclass(frozen=True)
class Want:
    """Forward the sequence's ids that are not cached, then `drafts`; the logits of the last `logits` of them.

    `progressed` hears of the ids that are cached, where it takes several forwards.
    """

    sequence: sequences.Sequence
    primitive: Primitive
    kind: Kind
    phase: Literal["prefill", "thinking", "answer"]
    drafts: tuple[int, ...] = ()
    logits: int = 1
    progressed: Callable[[int], None] | None = None


class Stopped(Exception):
    """Thrown into a primitive that may not go on: nobody wants it any more, or there is no memory for it."""

    def __init__(self, reason: Literal["cancelled", "memory"]) -> None:
        super().__init__(reason)
        self.reason: Literal["cancelled", "memory"] = reason


SCORED = 64
"""Ids that are scored in one forward: each takes a row of logits."""

DRAFTS = 15
"""Ids that are guessed at most: they and the one before them go into one forward, however full it is."""

Forwarding = Generator[Want, torch.Tensor | None, None]
Extending = Generator[Want, torch.Tensor | None, Extension]


class Speculator(Protocol):
    """Guesses a sequence's next ids, and learns whether that pays."""

    def propose(self, sequence: sequences.Sequence, most: int, likely: Likely) -> Sequence[int]:
        """Up to `most` ids that may follow the sequence's; none where guessing is not worth a forward."""
        ...

    def verified(self, sequence: sequences.Sequence, forward: Forwarded) -> None:
        """The forward that was proposed for, with guesses or without; what was chosen is on the sequence."""
        ...

    def forget(self, sequence: sequences.Sequence) -> None:
        """Release what is held for a sequence; idempotent."""
        ...


def prefill(
    sequence: sequences.Sequence, ids: Sequence[int], report: Callable[[int], None]
) -> Generator[Want, torch.Tensor | None, None]:
    """Take what is cached of a prompt and forward the rest; `report` gets the tokens done.

    The last token is always forwarded, for its logits.
    """
    sequence.adopt(ids[:-1])
    sequence.ids = list(ids)
    report(sequence.cached)
    try:
        yield Want(sequence, "prefill", "prefilled", "prefill", progressed=report)
        sequence.publish()
    except Stopped as stopped:
        del sequence.ids[sequence.seen :]
        if stopped.reason == "memory":
            raise MemoryError(f"there is no memory for a prompt of {len(ids)} tokens") from None


def force(sequence: sequences.Sequence, phase: Phase, ids: Sequence[int]) -> Forwarding:
    """Forward ids that were not sampled, after the pending one: all of them, or none."""
    known = len(sequence.ids)
    try:
        yield from forward_pending(sequence)
        sequence.ids += ids
        if ids:
            yield Want(sequence, "force", "forced", phase)
            sequence.origins.append(Origin(phase, known, len(sequence.ids)))
    except BaseException as error:
        sequence.rewind(known)
        if not isinstance(error, Stopped):
            raise
        if error.reason == "memory":
            raise MemoryError(f"there is no memory for {len(ids)} tokens more") from None


def forward_pending(
    sequence: sequences.Sequence, kind: Literal["probe", "score"] | None = None
) -> Forwarding:
    """A pending id is forwarded under the phase in which it was sampled, whoever needs it now.

    On a fork that is thrown away it is of the fork's `kind`.
    """
    if sequence.pending:
        yield Want(sequence, kind or "extend", kind or sequence.pending, sequence.pending_phase)


def score(
    sequence: sequences.Sequence, phase: Phase, ids: Sequence[int]
) -> Generator[Want, torch.Tensor | None, list[float]]:
    """The ids' log-probabilities; the sequence, a fork made for this, is left with them."""
    try:
        yield from forward_pending(sequence, "score")
        found = _log_probabilities(torch.as_tensor(sequence.logits)[None], ids[:1])
        for begin in range(1, len(ids), SCORED):
            known = ids[begin - 1 : begin - 1 + len(ids[begin : begin + SCORED])]
            sequence.ids += known
            rows = yield Want(sequence, "score", "score", phase, logits=len(known))
            assert rows is not None
            found += _log_probabilities(rows, ids[begin : begin + SCORED])
        return found
    except Stopped as stopped:
        if stopped.reason == "memory":
            raise MemoryError(f"there is no memory to score {len(ids)} tokens") from None
        return []


def extend(
    sequence: sequences.Sequence,
    sampling: Sampling,
    context: int,
    *,
    speculator: Speculator | None = None,
    kind: Kind | None = None,
) -> Extending:
    """Sample until a rule, the lease or the context ends it. The lease is read anew for each token.

    Of the ids that `speculator` guesses, those are kept that would have been sampled, and no others: the
    text is the same with and without it.
    """
    lease = sampling.lease
    try:
        while sampling.goes_on(sequence, context):
            drafts: tuple[int, ...] = ()
            rows: Sequence[torch.Tensor | np.ndarray] = [sequence.logits]
            forwarded = None
            if sequence.pending:
                most = min(lease.limit - lease.used - 1, context - len(sequence.ids) - 1, DRAFTS)
                if speculator is not None and most > 0:
                    drafts = sampling.useful(speculator.propose(sequence, most, sampling.likely(sequence)))
                pending = sequence.pending_phase
                primitive: Primitive = "probe" if kind == "probe" else "extend"
                rows = yield Want(  # type: ignore[assignment]
                    sequence, primitive, kind or pending, pending, drafts, len(drafts) + 1
                )
                drafts = drafts[: len(rows) - 1]  # fewer where memory is short
                if not drafts:
                    rows = [sequence.logits]  # on the host already
                forwarded = sequence.account.forwarded[-1]
            known = len(sequence.ids)
            for at, logits in enumerate(rows):
                if at and not sampling.goes_on(sequence, context):
                    break
                token = sampling.take(sequence, logits)
                if token is None or at == len(drafts) or token != drafts[at]:
                    break
            if drafts:
                accepted = _agreed(sequence.ids[known:], drafts)
                _settle(sequence, known, len(drafts), accepted, rows[accepted], kind or sampling.phase)
            if speculator is not None and forwarded is not None:
                speculator.verified(sequence, forwarded)
    except Stopped as stopped:
        sampling.reason = stopped.reason
    return sampling.result()


def probe(
    sequence: sequences.Sequence, ids: Sequence[int], sampling: Sampling, context: int, watcher: Watcher
) -> Generator[Want, torch.Tensor | None, Probe | None]:
    """What follows forced ids; the sequence, a fork made for this, is left with it."""
    try:
        if ids:
            yield from forward_pending(sequence, "probe")
            sequence.ids += ids
            yield Want(sequence, "probe", "probe", sequence.pending_phase)
        sampled = yield from extend(sequence, sampling, context, kind="probe")
    except Stopped:
        return None
    return None if sampled.reason == "memory" else Probe(sampled.ids, watcher.seen())


def _agreed(ids: Sequence[int], drafts: Sequence[int]) -> int:
    """How many of the drafts became the sequence's next ids."""
    pairs = zip(ids, drafts, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(drafts)))


def _settle(
    sequence: sequences.Sequence,
    known: int,
    drafts: int,
    accepted: int,
    logits: torch.Tensor | np.ndarray,
    kind: Kind,
) -> None:
    """After a verified forward: keep in the pages what was accepted, and tell all apart in the account.

    The id before the drafts has the kind under which it was sampled, those accepted have `kind`.
    """
    sequence.cached = sequence.seen = known + accepted
    sequence.logits = logits.cpu().numpy() if isinstance(logits, torch.Tensor) else logits
    sequence.trim()
    account = sequence.account
    account.drafts_accepted += accepted
    account.drafts_rejected += drafts - accepted
    entry = account.forwarded.pop()
    phase = kind if kind in ("thinking", "answer") else entry.phase
    before = 0
    for tokens, part_kind, part_phase in (
        (1, entry.kind, entry.phase),
        (accepted, kind, phase),
        (drafts - accepted, "draft_rejected", phase),
    ):
        if tokens:
            part = tokens / (1 + drafts)
            account.forwarded.append(
                replace(
                    entry,
                    kind=part_kind,
                    phase=part_phase,
                    tokens=tokens,
                    context=entry.context + before,
                    logits_rows=tokens,
                    seconds=entry.seconds * part,
                    part=part,
                    accepted=tokens if before and part_kind == kind else 0,
                )
            )
        before += tokens


def _log_probabilities(rows: torch.Tensor, ids: Sequence[int]) -> list[float]:
    """Of each id under its row of logits, [len(ids), vocabulary]."""
    logs = torch.log_softmax(rows.double(), -1)
    found: list[float] = logs.gather(1, torch.tensor(ids, device=logs.device)[:, None])[:, 0].tolist()
    return found
