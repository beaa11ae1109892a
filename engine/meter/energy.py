"""Joules of an answer: from a counter where there is one, else by a stated model. Never a 0 for unknown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import psutil

from engine.backend import EnergyCounter
from engine.protocol import ModelInfo, Quantity, measured, modelled, unavailable
from engine.protocol.receipt import Energy
from profiles.catalogue import Profile

IDLE_SHARE = 0.2
"""Share of the rated power that a machine is taken to draw when idle."""
ERROR = 0.5
"""The model's relative error, either way."""
THREAD_W = 10.0
"""What a busy thread is guessed to draw, to keep a budget by where nothing else is known."""


class Power(NamedTuple):
    """Watts while work is done, and how they are known."""

    idle: float
    active: float
    """Beside what it draws when idle."""
    source: str

    @property
    def total(self) -> float:
        return self.idle + self.active


def rated_power(profile: Profile, info: ModelInfo) -> Power | None:
    """Idle + duty x (rated - idle) watts; duty is threads / cores on a CPU and 1 on a GPU.

    None where the profile has no rated power, or is not this machine.
    """
    if profile.watts is None or info.simulated:
        return None
    idle_w = IDLE_SHARE * profile.watts
    duty = 1.0 if profile.kind == "gpu" else min(1.0, info.threads / (psutil.cpu_count(logical=False) or 1))
    source = f"idle + {duty:.2g} x (rated - idle) of {profile.name}'s {profile.watts:g} W"
    return Power(idle_w, duty * (profile.watts - idle_w), source)


def modelled_energy(profile: Profile, info: ModelInfo, seconds_by_phase: Mapping[str, float]) -> Energy:
    """Energy of so many seconds of work at the rated power."""
    power = rated_power(profile, info)
    if power is None:
        reason = "is not this machine" if info.simulated else "has no rated power"
        none = unavailable("J", "no energy counter was read", f"profile {profile.name} {reason}")
        return Energy(total=none, net=none, prefill=none, thinking=none, answer=none, discarded=none)
    source = power.source
    busy_s = sum(seconds_by_phase.values())

    def joules(watts: float, seconds: float) -> Quantity:
        value = watts * seconds
        return modelled(value, "J", source, value * (1 - ERROR), value * (1 + ERROR))

    return Energy(
        total=joules(power.total, busy_s),
        net=joules(power.active, busy_s),
        prefill=joules(power.total, seconds_by_phase["prefill"]),
        thinking=joules(power.total, seconds_by_phase["thinking"]),
        answer=joules(power.total, seconds_by_phase["answer"]),
        discarded=(
            joules(power.total, seconds_by_phase["discarded"])
            if "discarded" in seconds_by_phase
            else unavailable("J", "nothing was discarded")
        ),
    )


class Joules:
    """What has been drawn since the beginning, to keep a budget by.

    A counter lags behind: what was drawn since it last moved is taken to be as it was before.
    """

    def __init__(
        self, profile: Profile, info: ModelInfo, counter: EnergyCounter | None, since_ns: int
    ) -> None:
        guess = Power(0.0, THREAD_W * info.threads, f"a guess: {THREAD_W:g} W for each of its threads")
        self._power = rated_power(profile, info) or guess
        self._counter = counter
        self._began_ns = since_ns
        self._first = counter.read() if counter is not None else None

    @property
    def watts(self) -> float:
        """What is drawn now, as far as it is known."""
        counted = self._counted()
        if counted is None:
            return self._power.total
        joules, seconds, _ = counted
        return joules / seconds if seconds > 0 and joules > 0 else self._power.total

    def drawn(self) -> Quantity:
        """Joules by now."""
        counted = self._counted()
        if counted is None:
            value = self._power.total * (time.monotonic_ns() - self._began_ns) / 1e9
            return modelled(value, "J", self._power.source, value * (1 - ERROR), value * (1 + ERROR))
        joules, _, lag_s = counted
        return measured(joules + self.watts * lag_s, "J", "energy counter, and its lag at the same power")

    def _counted(self) -> tuple[float, float, float] | None:
        """Joules, over how many seconds, and the seconds since then."""
        if self._counter is None or self._first is None:
            return None
        now, last = time.monotonic_ns(), self._counter.read()
        began = max(self._first.at_ns, 0)
        return (
            last.joules - self._first.joules,
            (last.at_ns - began) / 1e9,
            (now - max(last.at_ns, self._began_ns)) / 1e9,
        )
