"""The receipt of an answer: made from the backend's account, the clock and the one cost formula."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import structs

from engine.backend import Account, Backend, Kind, MemoryUse, Sampler
from engine.build import mull_version
from engine.meter.energy import modelled_energy
from engine.meter.tally import roofline_dtype, step
from engine.protocol import Quantity, Receipt, TokenCounts, derived, measured, modelled, unavailable
from engine.protocol.receipt import (
    Compute,
    Cost,
    Environment,
    FlopsByPhase,
    Memory,
    Speed,
    State,
    Step,
    Times,
)
from profiles.catalogue import Figure
from profiles.costs import prefill_bytes, prefill_flops, roofline_seconds

CLOCK = "monotonic clock"
FORMULA = "profiles.costs"


@dataclass(frozen=True)
class Clock:
    """When a request was accepted and began to run (monotonic ns), and what loading took in between."""

    accepted_ns: int
    began_ns: int
    load_s: float


@dataclass(frozen=True)
class Spent:
    """What a candidate did, or the prompt that several share; `kept`: it is in the answer."""

    candidate: str
    account: Account
    pending: Kind | None
    kept: bool


@dataclass(frozen=True)
class Outcome:
    """What is left of an answer when it has ended."""

    spent: tuple[Spent, ...]
    prompt_tokens: int
    sampler: Sampler
    memory: MemoryUse
    notices: tuple[str, ...]


def build(backend: Backend, clock: Clock, outcome: Outcome) -> Receipt:
    """The receipt, at the moment of the call: `time.total` ends here."""
    total_s = (time.monotonic_ns() - clock.accepted_ns) / 1e9 - clock.load_s
    in_answer, discarded = (_steps(backend, outcome, kept) for kept in (True, False))
    steps = in_answer + discarded
    if len(outcome.spent) > 1:  # they were computed beside each other: each took its share of the time
        in_answer, discarded, timed = map(_shared, (in_answer, discarded, steps))
    else:
        timed = steps
    tokens = _tokens(outcome)
    sampling_s = sum(sum(one.account.sampling_s.values()) for one in outcome.spent)
    times = _times(clock, outcome, timed, sampling_s, total_s, _saved(backend, tokens.cached, steps))
    busy = {
        phase: _busy_seconds(in_answer, phase)
        + sum(one.account.sampling_s.get(phase, 0.0) for one in outcome.spent if one.kept)
        for phase in PHASES
    }
    if discarded:
        busy["discarded"] = sum(entry.busy for entry in discarded) + sum(
            sum(one.account.sampling_s.values()) for one in outcome.spent if not one.kept
        )
    return Receipt(
        environment=environment(backend, outcome.sampler),
        tokens=tokens,
        time=times,
        compute=Compute(
            flops=FlopsByPhase(
                total=derived(sum(entry.flops for entry in steps), "FLOP", FORMULA),
                prefill=_flops(in_answer, "prefill"),
                thinking=_flops(in_answer, "thinking"),
                answer=_flops(in_answer, "answer"),
                discarded=derived(
                    sum(entry.flops for entry in discarded),
                    "FLOP",
                    FORMULA if discarded else "nothing was discarded",
                ),
            ),
            flops_saved_by_cache=derived(
                prefill_flops(backend.shape, tokens.cached, logits_rows=0).total, "FLOP", FORMULA
            ),
            bytes=derived(sum(entry.bytes for entry in steps), "B", FORMULA),
        ),
        speed=_speed(backend, timed, sampling_s),
        memory=_memory(outcome.memory),
        energy=modelled_energy(backend.profile, backend.info, busy),
        cost=Cost(
            money=unavailable("money", "no tariff is known"),
            co2=unavailable("g", "the grid's intensity is not known"),
        ),
        steps=steps,
        sequence=_sequence([one.account for one in outcome.spent]),
        state=State(
            notices=outcome.notices,
            degradations=tuple(
                dict.fromkeys(event for one in outcome.spent for event in one.account.degradations)
            ),
        ),
    )


def _sequence(accounts: Sequence[Account]) -> int:
    """Tokens along the longest chain of nodes each of which began to sample when the one before had ended."""
    ended: list[tuple[int, int]] = []  # when, and after how many tokens
    for account in sorted((one for one in accounts if one.sampled_ns), key=lambda one: one.sampled_ns[0]):
        before = max((tokens for at, tokens in ended if at <= account.sampled_ns[0]), default=0)
        ended.append((account.sampled_ns[-1], before + len(account.sampled_ns)))
    return max((tokens for _, tokens in ended), default=0)


def _steps(backend: Backend, outcome: Outcome, kept: bool) -> tuple[Step, ...]:
    """Of what is in the answer, or of what is not: candidate by candidate, guesses by another model last."""
    steps: tuple[Step, ...] = ()
    for one in outcome.spent:
        if one.kept == kept:
            for works in one.account.forwarded, one.account.drafted:
                steps += merged([step(backend, one.candidate, work) for work in works])
    return steps


def _shared(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(structs.replace(entry, seconds=entry.busy) for entry in steps)


PHASES = ("prefill", "thinking", "answer")


def merged(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Consecutive steps of a primitive and phase as one; as two where decoding and vain guesses alternate."""
    out: list[Step] = []
    for entry in steps:
        place = _place(out, entry)
        if place is not None:
            last = out[place]
            out[place] = structs.replace(
                last,
                tokens=last.tokens + entry.tokens,
                seconds=last.seconds + entry.seconds,
                busy_seconds=last.busy + entry.busy,
                flops=last.flops + entry.flops,
                bytes=last.bytes + entry.bytes,
            )
        else:
            out.append(entry)
    return tuple(out)


def _place(steps: Sequence[Step], entry: Step) -> int | None:
    """The index of the step that an entry goes on with."""
    for place in range(len(steps) - 1, max(len(steps) - 3, -1), -1):
        before = steps[place]
        if (before.primitive, before.phase) == (entry.primitive, entry.phase):
            return place
        if {before.primitive, entry.primitive} != {"extend", "verify"}:
            return None
    return None


_TEXT = ("thinking", "answer", "forced")
"""Kinds of which a candidate's text is made."""


def _tokens(outcome: Outcome) -> TokenCounts:
    shown = [work for one in outcome.spent if one.kept for work in one.account.forwarded]
    others = [work for one in outcome.spent if not one.kept for work in one.account.forwarded]

    def count(kind: str) -> int:
        """Of the answer's own; what of others was neither thought nor said keeps its kind."""
        counted = shown if kind in _TEXT else shown + others
        return sum(work.tokens for work in counted if work.kind == kind)

    pending = next((one.pending for one in reversed(outcome.spent) if one.kept), None)
    return TokenCounts(
        prompt=outcome.prompt_tokens,
        cached=outcome.spent[0].account.cached,
        restored=outcome.spent[0].account.restored,
        prefilled=count("prefilled"),
        thinking=count("thinking") + (pending == "thinking"),
        answer=count("answer") + (pending == "answer"),
        forced=count("forced"),
        probe=count("probe"),
        score=count("score"),
        draft_accepted=sum(work.accepted for work in shown),
        draft_rejected=count("draft_rejected"),
        recomputed=count("recomputed"),
        discarded=sum(work.tokens for work in others if work.kind in _TEXT),
        pending=int(pending is not None),
    )


def _flops(steps: Sequence[Step], phase: str) -> Quantity:
    return derived(sum(entry.flops for entry in steps if entry.phase == phase), "FLOP", FORMULA)


def _seconds(steps: Sequence[Step], phase: str) -> float:
    return sum(entry.seconds for entry in steps if entry.phase == phase)


def _busy_seconds(steps: Sequence[Step], phase: str) -> float:
    return sum(entry.busy for entry in steps if entry.phase == phase)


def _times(
    clock: Clock,
    outcome: Outcome,
    steps: Sequence[Step],
    sampling_s: float,
    total_s: float,
    saved: Quantity,
) -> Times:
    """Gaps are between tokens of the kept answer; the first token is whoever's came first."""
    sampled_ns = [at for one in outcome.spent if one.kept for at in one.account.sampled_ns]
    first_ns = min((one.account.sampled_ns[0] for one in outcome.spent if one.account.sampled_ns), default=0)
    gaps = np.diff(np.asarray(sampled_ns, dtype=np.int64)) / 1e9
    few = unavailable("s", "fewer than two tokens were sampled")
    decode_s = _seconds(steps, "thinking") + _seconds(steps, "answer") + sampling_s
    return Times(
        load=measured(clock.load_s, "s", CLOCK),
        queue=measured(max(0.0, (clock.began_ns - clock.accepted_ns) / 1e9 - clock.load_s), "s", CLOCK),
        prefill=measured(_seconds(steps, "prefill"), "s", CLOCK),
        first_token=(
            measured((first_ns - clock.accepted_ns) / 1e9 - clock.load_s, "s", CLOCK)
            if first_ns
            else unavailable("s", "no token was sampled")
        ),
        decode=measured(decode_s, "s", CLOCK),
        total=measured(total_s, "s", CLOCK),
        per_token=derived(float(gaps.mean()), "s", "mean gap between tokens") if gaps.size else few,
        itl_p50=derived(float(np.percentile(gaps, 50)), "s", "gaps between tokens") if gaps.size else few,
        itl_p95=derived(float(np.percentile(gaps, 95)), "s", "gaps between tokens") if gaps.size else few,
        saved_by_cache=saved,
    )


def _saved(backend: Backend, cached: int, steps: Sequence[Step]) -> Quantity:
    """Seconds that forwarding the cached tokens would have taken.

    At least their roofline time; at most their time at the FLOP/s of the rest of the prompt, which was
    shorter and thus slower by the token. Between these bounds, which may lie far apart, the geometric mean.
    """
    if not cached:
        return derived(0, "s", "no token came from a cache")
    prefill = _Work.of(entry for entry in steps if entry.primitive == "prefill")
    if not prefill.seconds:
        return unavailable("s", "no token was prefilled to measure the speed by")
    flops = prefill_flops(backend.shape, cached, logits_rows=0).total
    moved = prefill_bytes(backend.shape, cached, logits_rows=0).total
    slowest = flops * prefill.busy_seconds / prefill.flops
    fastest = roofline_seconds(flops, moved, backend.profile, backend.info.dtype)
    if fastest is None or backend.info.simulated:
        return modelled(slowest, "s", "at the FLOP/s of this prompt's prefill, an upper bound", 0, slowest)
    low, high = sorted((fastest, slowest))
    source = "between the roofline and the FLOP/s of this prompt's prefill"
    return modelled(math.sqrt(low * high), "s", source, low, high)


def _speed(backend: Backend, steps: Sequence[Step], sampling_s: float) -> Speed:
    """Rates, sampling included, and their share of what the profile's hardware could do.

    To guess takes time, and a wrong guess gives no token.
    """
    prefill = _Work.of(entry for entry in steps if entry.primitive == "prefill")
    forwards = _Work.of(entry for entry in steps if entry.primitive == "extend")
    guesses = _Work.of(entry for entry in steps if entry.primitive in ("verify", "draft"))
    decode = replace(
        forwards,
        seconds=forwards.seconds + guesses.seconds + sampling_s,
        busy_seconds=forwards.busy_seconds + guesses.busy_seconds + sampling_s,
        bytes=forwards.bytes + guesses.bytes,
        flops=forwards.flops + guesses.flops,
    )
    return Speed(
        prefill_tok_s=prefill.rate("tokens / prefill seconds"),
        decode_tok_s=decode.rate("tokens / decode seconds"),
        roofline_tok_s=_roofline(backend, decode),
        mbu=_utilization(
            backend, decode.bytes, decode.busy_seconds, backend.profile.bandwidth, "decode bytes"
        ),
        mfu=_utilization(
            backend,
            prefill.flops,
            prefill.busy_seconds,
            backend.profile.peaks.get(backend.info.dtype),
            f"prefill {backend.info.dtype} FLOPs",
        ),
    )


@dataclass(frozen=True)
class _Work:
    """Steps of one primitive, added up."""

    tokens: int
    flops: int
    bytes: int
    seconds: float
    busy_seconds: float

    @classmethod
    def of(cls, steps: Iterable[Step]) -> _Work:
        chosen = tuple(steps)
        return cls(
            tokens=sum(entry.tokens for entry in chosen),
            flops=sum(entry.flops for entry in chosen),
            bytes=sum(entry.bytes for entry in chosen),
            seconds=sum(entry.seconds for entry in chosen),
            busy_seconds=sum(entry.busy for entry in chosen),
        )

    def rate(self, source: str) -> Quantity:
        if not self.seconds:
            return unavailable("tok/s", "no such step was taken")
        return derived(self.tokens / self.seconds, "tok/s", source)


def _roofline(backend: Backend, decode: _Work) -> Quantity:
    """Tokens per second at which this profile could have decoded, at the answer's mean context."""
    profile, bandwidth = backend.profile, backend.profile.bandwidth
    if not decode.tokens or bandwidth is None:
        return unavailable("tok/s", "nothing was decoded" if bandwidth else "the bandwidth is not known")
    flops, moved = decode.flops // decode.tokens, decode.bytes // decode.tokens
    dtype = roofline_dtype(backend)
    seconds = roofline_seconds(flops, moved, profile, dtype)
    if seconds is None:
        return unavailable("tok/s", f"{profile.name} has no {dtype} peak")
    basis = "predicted for" if backend.info.simulated else f"{bandwidth.basis} figures of"
    return derived(1 / seconds, "tok/s", f"{basis} {profile.name}, {dtype}")


def _utilization(
    backend: Backend, amount: int, seconds: float, capacity: Figure | None, what: str
) -> Quantity:
    """The share of the hardware's capacity that work of this amount used."""
    if backend.info.simulated:
        return unavailable("1", f"{backend.profile.name} is not this machine")
    if capacity is None:
        return unavailable("1", f"{backend.profile.name} has no figure for it")
    if not seconds:
        return unavailable("1", "no such step was taken")
    source = f"{what} / s over the {capacity.basis} figure of {backend.profile.name}"
    return derived(amount / seconds / capacity.value, "1", source)


def _memory(use: MemoryUse) -> Memory:
    return Memory(
        weights=measured(use.weights, "B", "sizes of the loaded tensors"),
        kv_used=measured(use.kv_used, "B", "pages in use"),
        kv_allocated=measured(use.kv_allocated, "B", "pages of the pool that are backed by memory"),
        peak=measured(use.process_peak, "B", "the engine process's peak resident size"),
        free=measured(use.free, "B", "the operating system's available memory"),
    )


def environment(backend: Backend, sampler: Sampler) -> Environment:
    """What is computed on, and how."""
    info, versions = backend.info, backend.versions
    return Environment(
        mull=mull_version(),
        model=info.name,
        revision=info.revision,
        architecture=info.architecture,
        device=info.device,
        profile=info.profile,
        weight_dtype=info.weights,
        kv_dtype=info.kv_dtype,
        kernel_class=backend.kernel_class,
        threads=info.threads,
        torch=versions["torch"],
        transformers=versions["transformers"],
        seed=sampler.seed,
        temperature=sampler.temperature,
        top_p=sampler.top_p,
        top_k=sampler.top_k,
        quantization=info.quantization,
    )
