"""Joules of an answer where no counter can be read: a stated model, or nothing. Never a 0 for unknown."""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from engine.protocol import ModelInfo, Quantity, modelled, unavailable
from engine.protocol.receipt import Energy
from profiles.catalogue import Profile

IDLE_SHARE = 0.2
"""Share of the rated power that a machine is taken to draw when idle."""
ERROR = 0.5
"""The model's relative error, either way."""


def modelled_energy(profile: Profile, info: ModelInfo, seconds_by_phase: Mapping[str, float]) -> Energy:
    """Energy of so many seconds of work: idle + duty x (rated - idle) watts.

    Duty is threads / cores on a CPU and 1 on a GPU.
    """
    if profile.watts is None or info.simulated:
        reason = "is not this machine" if info.simulated else "has no rated power"
        none = unavailable("J", "no energy counter was read", f"profile {profile.name} {reason}")
        return Energy(total=none, net=none, prefill=none, thinking=none, answer=none, discarded=none)
    busy_s = sum(seconds_by_phase.values())
    idle_w = IDLE_SHARE * profile.watts
    duty = 1.0 if profile.kind == "gpu" else min(1.0, info.threads / (psutil.cpu_count(logical=False) or 1))
    active_w = duty * (profile.watts - idle_w)
    source = f"idle + {duty:.2g} x (rated - idle) of {profile.name}'s {profile.watts:g} W"

    def joules(watts: float, seconds: float) -> Quantity:
        value = watts * seconds
        return modelled(value, "J", source, value * (1 - ERROR), value * (1 + ERROR))

    return Energy(
        total=joules(idle_w + active_w, busy_s),
        net=joules(active_w, busy_s),
        prefill=joules(idle_w + active_w, seconds_by_phase["prefill"]),
        thinking=joules(idle_w + active_w, seconds_by_phase["thinking"]),
        answer=joules(idle_w + active_w, seconds_by_phase["answer"]),
        discarded=(
            joules(idle_w + active_w, seconds_by_phase["discarded"])
            if "discarded" in seconds_by_phase
            else unavailable("J", "nothing was discarded")
        ),
    )
