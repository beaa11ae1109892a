"""The report of a speed measurement: from the runs, the one cost formula and the hardware's limits."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engine.backend import Backend, Limits, Sampler
from engine.meter.receipt import CLOCK, FORMULA, environment
from engine.protocol import Quantity, derived, measured, unavailable
from engine.protocol.receipt import Method, Step, Unit
from engine.protocol.speed import SpeedLimits, SpeedPhase, SpeedReport, SpeedRequest, SpeedRun
from profiles.catalogue import Figure, Profile
from profiles.costs import roofline_seconds

STEADY = 1.25
"""How far the slowest run may be from the fastest before that is pointed out."""


@dataclass(frozen=True)
class Work:
    """A phase of one run: its seconds, and what its forwards did for all rows."""

    seconds: float
    flops: int
    bytes: int

    @classmethod
    def of(cls, seconds: float, steps: Sequence[Step]) -> Work:
        return cls(seconds, sum(entry.flops for entry in steps), sum(entry.bytes for entry in steps))


@dataclass(frozen=True)
class Run:
    """One run: its phases, and the seconds until the last row had its first token."""

    prefill: Work
    decode: Work
    first_token_s: float


def build(
    request: SpeedRequest, backend: Backend, sampler: Sampler, found: Limits, runs: Sequence[Run]
) -> SpeedReport:
    """The report. What could not be measured of the hardware is taken from its profile, and named as such."""
    limits, hardware = _limits(backend, found)
    dtype = backend.info.dtype
    prompts = request.batch * request.prompt
    decoded = request.batch * (request.generate - 1)  # a row's first token comes from its prompt's pass
    rates = [decoded / run.decode.seconds for run in runs]
    after_first = "tokens after the first / decode seconds"
    decode = _phase(decoded, [run.decode for run in runs], hardware, dtype)
    return SpeedReport(
        model=backend.info.name,
        environment=environment(backend, sampler),
        prompt=request.prompt,
        generate=request.generate,
        batch=request.batch,
        prefill_tok_s=_spread(
            [prompts / run.prefill.seconds for run in runs], "tok/s", "prompt tokens / prefill seconds"
        ),
        decode_tok_s=_spread(rates, "tok/s", after_first),
        decode_tok_s_per_row=_spread([rate / request.batch for rate in rates], "tok/s", after_first),
        first_token=_spread([run.first_token_s for run in runs], "s", CLOCK, "measured"),
        roofline_tok_s=decode.roofline_tok_s,
        mfu=_share([run.prefill.flops / run.prefill.seconds for run in runs], limits.peak, "prefill FLOPs"),
        mbu=_share([run.decode.bytes / run.decode.seconds for run in runs], limits.bandwidth, "decode bytes"),
        prefill=_phase(prompts, [run.prefill for run in runs], hardware, dtype),
        decode=decode,
        limits=limits,
        runs=tuple(
            SpeedRun(
                prefill=measured(run.prefill.seconds, "s", CLOCK),
                first_token=measured(run.first_token_s, "s", CLOCK),
                decode=measured(run.decode.seconds, "s", CLOCK),
            )
            for run in runs
        ),
        notes=_notes(backend, found, runs),
    )


def _limits(backend: Backend, found: Limits) -> tuple[SpeedLimits, Profile]:
    """The limits with where each is from, and a profile of hardware that has just these."""
    profile, dtype = backend.profile, backend.info.dtype
    stated = (
        _stated(backend, profile.bandwidth, "B/s"),
        _stated(backend, profile.peaks.get(dtype), "FLOP/s"),
    )
    bandwidth, peak = (
        own if own.value is not None else other
        for own, other in zip((found.bandwidth, found.peak), stated, strict=True)
    )
    hardware = replace(
        profile,
        bandwidth=None if bandwidth.value is None else Figure(bandwidth.value, "measured"),
        peaks={} if peak.value is None else {dtype: Figure(peak.value, "measured")},
    )
    return SpeedLimits(
        bandwidth=bandwidth, peak=peak, profile_bandwidth=stated[0], profile_peak=stated[1]
    ), hardware


def _stated(backend: Backend, figure: Figure | None, unit: Unit) -> Quantity:
    """What the profile says of this machine."""
    profile = backend.profile
    if backend.info.simulated:
        return unavailable(unit, f"{profile.name} is not this machine")
    if figure is None:
        return unavailable(unit, f"{profile.name} has no figure for it")
    source = f"{figure.basis} figure of {profile.name}"
    return Quantity(value=figure.value, unit=unit, method="modelled", source=source)


def _phase(tokens: int, works: Sequence[Work], hardware: Profile, dtype: str) -> SpeedPhase:
    """A phase of so many tokens against the least time that the hardware allows, by run."""
    least = [roofline_seconds(work.flops, work.bytes, hardware, dtype) for work in works]
    times = [seconds for seconds in least if seconds is not None]
    roofline, gap = (unavailable(unit, "bandwidth or peak is not known") for unit in _UNITS)
    bound: Literal["compute", "bandwidth"] | None = None
    if times and hardware.bandwidth is not None:
        roofline = _spread(
            [tokens / seconds for seconds in times], "tok/s", "tokens / max(FLOPs / peak, bytes / bandwidth)"
        )
        pairs = zip(works, times, strict=True)
        gap = _spread([work.seconds / seconds for work, seconds in pairs], "1", "seconds / roofline seconds")
        computing = works[0].flops / hardware.peaks[dtype].value
        bound = "compute" if computing >= works[0].bytes / hardware.bandwidth.value else "bandwidth"
    return SpeedPhase(
        flops=derived(statistics.median_low(work.flops for work in works), "FLOP", FORMULA),
        bytes=derived(statistics.median_low(work.bytes for work in works), "B", FORMULA),
        roofline_tok_s=roofline,
        gap=gap,
        bound=bound,
    )


_UNITS: tuple[Unit, Unit] = ("tok/s", "1")


def _share(rates: Sequence[float], limit: Quantity, what: str) -> Quantity:
    """The part of a limit that was used."""
    if limit.value is None:
        return unavailable("1", *limit.reasons)
    value = limit.value
    return _spread([rate / value for rate in rates], "1", f"{what} / s over: {limit.source}")


def _spread(values: Sequence[float], unit: Unit, source: str, method: Method = "derived") -> Quantity:
    """The median of the runs, with the least and the most."""
    return Quantity(
        value=statistics.median(values),
        unit=unit,
        method=method,
        source=source if len(values) == 1 else f"{source}; median of {len(values)} runs",
        low=min(values),
        high=max(values),
    )


def _notes(backend: Backend, found: Limits, runs: Sequence[Run]) -> tuple[str, ...]:
    """What a reader of the figures should know."""
    notes = []
    weights, cache = backend.info.weight_bytes, found.cache_bytes
    if cache is not None and weights < cache:
        notes.append(
            f"the weights ({weights / 1e6:.0f} MB) fit into the last-level cache ({cache / 1e6:.0f} MB): "
            "reading them is not bound by memory, and MBU may exceed 100 %"
        )
    totals = [run.prefill.seconds + run.decode.seconds for run in runs]
    if max(totals) > STEADY * min(totals):
        notes.append(
            f"the slowest run took {max(totals) / min(totals):.1f} times as long as the fastest: "
            "something else may be using the machine"
        )
    for limit in (found.bandwidth, found.peak):
        notes += [f"not measured: {reason}" for reason in limit.reasons]
    return tuple(notes)
