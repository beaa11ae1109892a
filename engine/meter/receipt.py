"""The receipt of an answer: made from the backend's account, the clock and the one cost formula."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.backend import Account, Backend, Kind, MemoryUse, Sampler
from engine.build import mull_version
from engine.meter.energy import modelled_energy
from engine.meter.tally import step
from engine.protocol import Quantity, Receipt, TokenCounts, derived, measured, unavailable
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
from profiles.costs import roofline_seconds

CLOCK = "monotonic clock"
FORMULA = "profiles.costs"


@dataclass(frozen=True)
class Clock:
    """Monotonic nanoseconds at which a request was accepted and began to run, and what loading took."""

    accepted_ns: int
    began_ns: int
    load_s: float


@dataclass(frozen=True)
class Outcome:
    """What is left of an answer when it has ended."""

    account: Account
    pending: Kind | None
    prompt_tokens: int
    sampler: Sampler
    memory: MemoryUse
    notices: tuple[str, ...]


def build(backend: Backend, clock: Clock, outcome: Outcome) -> Receipt:
    """The receipt, at the moment of the call: `time.total` ends here."""
    total_s = (time.monotonic_ns() - clock.accepted_ns) / 1e9 - clock.load_s
    steps = merged(tuple(step(backend, "0", work) for work in outcome.account.forwarded))
    tokens = _tokens(outcome)
    times = _times(clock, outcome.account.sampled_ns, steps, total_s)
    busy_s = sum(entry.seconds for entry in steps)
    return Receipt(
        environment=_environment(backend, outcome.sampler),
        tokens=tokens,
        time=times,
        compute=Compute(
            flops=FlopsByPhase(
                total=derived(sum(entry.flops for entry in steps), "FLOP", FORMULA),
                prefill=_flops(steps, "prefill"),
                thinking=_flops(steps, "thinking"),
                answer=_flops(steps, "answer"),
                discarded=derived(0, "FLOP", "nothing was discarded"),
            ),
            flops_saved_by_cache=derived(0, "FLOP", "no token came from a cache"),
            bytes=derived(sum(entry.bytes for entry in steps), "B", FORMULA),
        ),
        speed=_speed(backend, steps, times),
        memory=_memory(outcome.memory),
        energy=modelled_energy(
            backend.profile, backend.info, busy_s, {entry: _seconds(steps, entry) for entry in PHASES}
        ),
        cost=Cost(
            money=unavailable("money", "no tariff is configured"),
            co2=unavailable("g", "no grid intensity is configured"),
        ),
        steps=steps,
        state=State(notices=outcome.notices),
    )


PHASES = ("prefill", "thinking", "answer")


def merged(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Consecutive steps of the same primitive and phase as one."""
    out: list[Step] = []
    for entry in steps:
        last = out[-1] if out else None
        if last is not None and (last.primitive, last.phase) == (entry.primitive, entry.phase):
            out[-1] = Step(
                primitive=last.primitive,
                phase=last.phase,
                candidate=last.candidate,
                model=last.model,
                tokens=last.tokens + entry.tokens,
                context=last.context,
                seconds=last.seconds + entry.seconds,
                flops=last.flops + entry.flops,
                bytes=last.bytes + entry.bytes,
            )
        else:
            out.append(entry)
    return tuple(out)


def _tokens(outcome: Outcome) -> TokenCounts:
    def count(kind: str) -> int:
        return sum(work.tokens for work in outcome.account.forwarded if work.kind == kind)

    pending = outcome.pending
    return TokenCounts(
        prompt=outcome.prompt_tokens,
        prefilled=count("prefilled"),
        thinking=count("thinking") + (pending == "thinking"),
        answer=count("answer") + (pending == "answer"),
        forced=count("forced") + (pending == "forced"),
        pending=int(pending is not None),
    )


def _flops(steps: Sequence[Step], phase: str) -> Quantity:
    return derived(sum(entry.flops for entry in steps if entry.phase == phase), "FLOP", FORMULA)


def _seconds(steps: Sequence[Step], phase: str) -> float:
    return sum(entry.seconds for entry in steps if entry.phase == phase)


def _times(clock: Clock, sampled_ns: Sequence[int], steps: Sequence[Step], total_s: float) -> Times:
    gaps = np.diff(np.asarray(sampled_ns, dtype=np.int64)) / 1e9
    few = unavailable("s", "fewer than two tokens were sampled")
    decode_s = _seconds(steps, "thinking") + _seconds(steps, "answer")
    return Times(
        load=measured(clock.load_s, "s", CLOCK),
        queue=measured(max(0.0, (clock.began_ns - clock.accepted_ns) / 1e9 - clock.load_s), "s", CLOCK),
        prefill=measured(_seconds(steps, "prefill"), "s", CLOCK),
        first_token=(
            measured((sampled_ns[0] - clock.accepted_ns) / 1e9 - clock.load_s, "s", CLOCK)
            if sampled_ns
            else unavailable("s", "no token was sampled")
        ),
        decode=measured(decode_s, "s", CLOCK),
        total=measured(total_s, "s", CLOCK),
        per_token=derived(float(gaps.mean()), "s", "mean gap between tokens") if gaps.size else few,
        itl_p50=derived(float(np.percentile(gaps, 50)), "s", "gaps between tokens") if gaps.size else few,
        itl_p95=derived(float(np.percentile(gaps, 95)), "s", "gaps between tokens") if gaps.size else few,
    )


def _speed(backend: Backend, steps: Sequence[Step], times: Times) -> Speed:
    """Rates over the forward passes, and their share of what the profile's hardware could do."""
    prefill = [entry for entry in steps if entry.primitive == "prefill"]
    decode = [entry for entry in steps if entry.primitive == "extend"]
    prefill_s, decode_s = (sum(entry.seconds for entry in part) for part in (prefill, decode))
    decode_tokens = sum(entry.tokens for entry in decode)
    profile, dtype = backend.profile, backend.info.dtype
    peak, bandwidth = profile.peaks.get(dtype), profile.bandwidth
    short = unavailable("tok/s", "nothing was decoded")
    no_figure = "the profile has no figure for it"
    roofline = (
        roofline_seconds(
            sum(entry.flops for entry in decode) // decode_tokens,
            sum(entry.bytes for entry in decode) // decode_tokens,
            profile,
            dtype,
        )
        if decode_tokens
        else None
    )
    return Speed(
        prefill_tok_s=(
            derived(sum(entry.tokens for entry in prefill) / prefill_s, "tok/s", "tokens / prefill seconds")
            if prefill_s
            else unavailable("tok/s", "nothing was prefilled")
        ),
        decode_tok_s=derived(decode_tokens / decode_s, "tok/s", "tokens / decode seconds")
        if decode_s
        else short,
        roofline_tok_s=(
            derived(1 / roofline, "tok/s", f"{profile.name}, {bandwidth.basis if bandwidth else ''} figures")
            if roofline
            else unavailable("tok/s", no_figure)
        ),
        mbu=(
            derived(
                sum(entry.bytes for entry in decode) / decode_s / bandwidth.value,
                "1",
                f"decode bytes / s over {profile.name}'s {bandwidth.basis} bandwidth",
            )
            if bandwidth and decode_s
            else unavailable("1", no_figure if not bandwidth else "nothing was decoded")
        ),
        mfu=(
            derived(
                sum(entry.flops for entry in prefill) / prefill_s / peak.value,
                "1",
                f"prefill FLOP / s over {profile.name}'s {peak.basis} {dtype} peak",
            )
            if peak and prefill_s
            else unavailable("1", no_figure if not peak else "nothing was prefilled")
        ),
    )


def _memory(use: MemoryUse) -> Memory:
    return Memory(
        weights=measured(use.weights, "B", "sizes of the loaded tensors"),
        kv_used=measured(use.kv_used, "B", "pages in use"),
        kv_allocated=measured(use.kv_allocated, "B", "size of the page pool"),
        peak=measured(use.process_peak, "B", "the engine process's peak resident size"),
        free=measured(use.free, "B", "the operating system's available memory"),
    )


def _environment(backend: Backend, sampler: Sampler) -> Environment:
    info, versions = backend.info, backend.versions
    return Environment(
        mull=mull_version(),
        model=info.name,
        revision=info.revision,
        architecture=info.architecture,
        device=info.device,
        profile=info.profile,
        weight_dtype=info.dtype,
        kv_dtype=info.dtype,
        kernel_class=backend.kernel_class,
        threads=info.threads,
        torch=versions["torch"],
        transformers=versions["transformers"],
        seed=sampler.seed,
        temperature=sampler.temperature,
        top_p=sampler.top_p,
        top_k=sampler.top_k,
    )
