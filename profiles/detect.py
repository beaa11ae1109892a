"""From what the machine says to a hardware profile and the engine's settings.

The ladder: a profile chosen by name; a catalogue pattern on the whole device name that memory and
multiprocessor count confirm; the formula from bus width and clocks; generic, which says so.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from profiles import catalogue
from profiles.catalogue import Figure, Profile
from profiles.machine import Cpu, Gpu, read_cpu, read_gpu

How = Literal["chosen", "pattern", "formula", "generic"]
Dtype = Literal["fp32", "fp16", "bf16"]

MEMORY_TOLERANCE = 0.10  # ECC and firmware take up to 7 % of what the data sheet states


@dataclass(frozen=True)
class Settings:
    """What the engine takes from the machine: always of the machine it runs on, never a simulated one."""

    device: str  # torch's name: "cpu" or "cuda:0"
    dtype: Dtype
    threads: int


@dataclass(frozen=True)
class Detection:
    """The profile in force, how it was come by, and what could not be read or is only assumed.

    `simulated`: the profile was chosen and is not this machine, so every figure from it is *predicted*.
    `label` is the short name to show, which says so.
    """

    profile: Profile
    settings: Settings
    how: How
    simulated: bool
    reasons: tuple[str, ...]
    cpu: Cpu
    gpu: Gpu | None

    @property
    def label(self) -> str:
        notes = {"formula": "estimated", "generic": "generic"}
        note = "predicted" if self.simulated else notes.get(self.how)
        return f"{self.profile.name} ({note})" if note else self.profile.name

    def as_object(self) -> dict[str, object]:
        """The detection as JSON-able data; `id` and `name` are the profile's."""
        return {
            **self.profile.as_object(),
            "label": self.label,
            "how": self.how,
            "simulated": self.simulated,
            "reasons": list(self.reasons),
            "settings": {
                "device": self.settings.device,
                "dtype": self.settings.dtype,
                "threads": self.settings.threads,
            },
        }


def detect(
    profile: str | None = None,
    *,
    device: str = "auto",
    user_dir: Path | None = None,
    cpu: Cpu | None = None,
    nvml: Any = None,
    visible: str | None = None,
) -> Detection:
    """This machine's profile and settings, or those under the profile chosen by id or name.

    `device` is "auto", "cpu", "cuda" or "cuda:N". `user_dir` holds further profile files. `cpu`, `nvml`
    (a module like pynvml) and `visible` (CUDA_VISIBLE_DEVICES) are read from the machine unless given.
    Raises `UnknownProfile`, and ValueError for a device of another form; nothing else, whatever the
    driver does.
    """
    index = _device_index(device)
    reasons: list[str] = []
    profiles = catalogue.load(user_dir, warn=reasons.append)
    chosen = None if profile is None else catalogue.find(profile, profiles)
    cpu = cpu or read_cpu()
    gpu = None
    if index is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        gpu, gpu_reasons = read_gpu(index, visible=visible, nvml=nvml)
        reasons += gpu_reasons
    own, how = _of_gpu(gpu, profiles, reasons) if gpu else _of_cpu(cpu, profiles, reasons)
    settings = Settings(
        device="cpu" if gpu is None else f"cuda:{index}",
        dtype=_cpu_dtype(cpu) if gpu is None else _gpu_dtype(gpu),
        threads=cpu.cores,
    )
    if chosen is None or chosen.id == own.id:
        return Detection(own, settings, how, False, tuple(reasons), cpu, gpu)
    simulated = not (_is_gpu(chosen, gpu) if gpu else _is_cpu(chosen, cpu))
    if simulated:
        reasons.append(f"{chosen.name} was chosen and is not this machine: its figures are predictions")
    return Detection(chosen, settings, "chosen", simulated, tuple(reasons), cpu, gpu)


def _device_index(device: str) -> int | None:
    """The CUDA index to look at, or None for the CPU."""
    if device == "cpu":
        return None
    form = re.fullmatch(r"auto|cuda(?::(\d{1,3}))?", device, re.ASCII)
    if form is None:
        raise ValueError(f"unknown device {device!r}; use cpu, cuda or cuda:N")
    return int(form[1] or 0)


def _is_gpu(profile: Profile, gpu: Gpu) -> bool:
    """Whole name, memory within 10 %, and the multiprocessor count where both sides know it."""
    if profile.kind != "gpu" or not profile.match or not re.fullmatch(profile.match, gpu.name):
        return False
    if gpu.memory_bytes is None or profile.memory_bytes is None:
        return False
    if abs(gpu.memory_bytes - profile.memory_bytes) > MEMORY_TOLERANCE * profile.memory_bytes:
        return False
    return profile.sm_count is None or gpu.sm_count is None or profile.sm_count == gpu.sm_count


def _is_cpu(profile: Profile, cpu: Cpu) -> bool:
    return profile.kind == "cpu" and bool(profile.match and re.fullmatch(profile.match, cpu.name))


def _of_gpu(gpu: Gpu, profiles: list[Profile], reasons: list[str]) -> tuple[Profile, How]:
    for profile in reversed(profiles):  # a user's file comes last and wins
        if _is_gpu(profile, gpu):
            return profile, "pattern"
    bandwidth = None
    if gpu.bus_bits and gpu.memory_clock_hz and not gpu.slice:  # two transfers per clock
        bandwidth = Figure(gpu.bus_bits * gpu.memory_clock_hz * 2 / 8, "estimated")
    per_clock = _flops_per_clock(gpu)
    peaks: dict[str, Figure] = {}
    if per_clock and not gpu.slice and gpu.sm_count and gpu.sm_clock_hz:
        peaks = {_gpu_dtype(gpu): Figure(gpu.sm_count * gpu.sm_clock_hz * per_clock, "estimated")}
    found = bandwidth is not None or bool(peaks)
    profile = Profile(
        id="gpu",
        name=gpu.name,
        vendor="nvidia",
        kind="gpu",
        source="bus width and highest clocks as NVML reports them" if found else "nothing known of it",
        memory_bytes=gpu.memory_bytes,
        sm_count=gpu.sm_count,
        bandwidth=bandwidth,
        peaks=peaks,
        watts=None if gpu.slice else gpu.watts,
    )
    missing = "estimated from its clocks" if found else "unknown"
    reasons.append(f"{gpu.name} is not in the catalogue: its speed is {missing}")
    return profile, "formula" if found else "generic"


def _of_cpu(cpu: Cpu, profiles: list[Profile], reasons: list[str]) -> tuple[Profile, How]:
    for profile in reversed(profiles):
        if _is_cpu(profile, cpu):
            return replace(profile, memory_bytes=cpu.memory_bytes), "pattern"
    generic = catalogue.find(catalogue.GENERIC_CPU, profiles)
    per_cycle = _flops_per_cycle(cpu)
    peaks: dict[str, Figure] = {}
    if cpu.clock_hz is not None:
        peaks = {
            dtype: Figure(cpu.cores * cpu.clock_hz * flops, "estimated") for dtype, flops in per_cycle.items()
        }
    reasons.append(generic.source)
    if not peaks:
        reasons.append("the processor's peak FLOP/s are unknown: its clock or instruction set cannot be read")
    profile = replace(generic, name=cpu.name, memory_bytes=cpu.memory_bytes, peaks=peaks)
    return profile, "formula" if peaks else "generic"


def _flops_per_clock(gpu: Gpu) -> int | None:
    """Dense 16-bit tensor FLOPs with 32-bit accumulation per clock and multiprocessor, by capability."""
    geforce = "GeForce" in gpu.name
    match gpu.capability:
        case (7, 5):
            return None if "GTX" in gpu.name else 512 if geforce else 1024  # GTX 16xx: no tensor cores
        case (8, 0):
            return 2048
        case (8, 6) | (8, 9) | (12, 0):
            return 512 if geforce else 1024
        case (9, 0):
            return 4096
    return None


def _flops_per_cycle(cpu: Cpu) -> dict[str, int]:
    """FLOPs per core and cycle by dtype, with two multiply-add units; empty where the set is unknown."""
    fp32 = 64 if "avx512f" in cpu.flags else 32 if "avx2" in cpu.flags else None
    bf16 = 1024 if "amx_bf16" in cpu.flags else 128 if "avx512_bf16" in cpu.flags else None
    return {dtype: flops for dtype, flops in (("fp32", fp32), ("bf16", bf16)) if flops is not None}


def _cpu_dtype(cpu: Cpu) -> Dtype:
    return "bf16" if cpu.flags & {"amx_bf16", "avx512_bf16"} else "fp32"


def _gpu_dtype(gpu: Gpu) -> Dtype:
    """Before compute capability 8 the tensor cores take fp16 only."""
    return "fp16" if gpu.capability is not None and gpu.capability < (8, 0) else "bf16"
