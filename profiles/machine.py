"""What this machine says about its own processor and its NVIDIA GPU.

Reads psutil, the kernel and NVML; draws no conclusion. What cannot be read is None and a reason in words.
"""

import importlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

# CUDA cores per multiprocessor by compute capability (CUDA C++ Programming Guide, "Compute Capabilities"):
# NVML counts cores, the catalogue counts multiprocessors.
_CORES_PER_SM = {(7, 5): 64, (8, 0): 64, (8, 6): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (12, 0): 128}


@dataclass(frozen=True)
class Cpu:
    """The processor: physical cores this process may use, clock, instruction set flags, RAM."""

    name: str
    cores: int
    clock_hz: float | None
    flags: frozenset[str]
    memory_bytes: int


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML reports it. Clocks are the highest that the driver allows.

    Of a `slice` (MIG) bus width, clocks and watts are those of the whole part.
    """

    name: str
    slice: bool
    memory_bytes: int | None
    sm_count: int | None
    capability: tuple[int, int] | None
    bus_bits: int | None
    memory_clock_hz: float | None
    sm_clock_hz: float | None
    watts: float | None
    uuid: str | None
    driver: str | None


def read_cpu() -> Cpu:
    """The processor of this machine."""
    info = _cpuinfo()
    logical = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):  # sandboxes and some ARM machines hide it
        frequency = None
    mhz = (frequency.max or frequency.current) if frequency else 0
    return Cpu(
        name=info.get("model name") or platform.processor() or platform.machine() or "CPU",
        cores=max(1, min(psutil.cpu_count(logical=False) or logical, usable)),
        clock_hz=mhz * 1e6 if mhz else None,
        flags=frozenset((info.get("flags") or info.get("Features") or "").split()),
        memory_bytes=psutil.virtual_memory().total,
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def read_gpu(index: int = 0, *, visible: str | None = None, nvml: Any = None) -> tuple[Gpu | None, list[str]]:
    """The GPU that CUDA would call `index`, or None, and a reason for each thing that could not be read.

    `visible` is CUDA_VISIBLE_DEVICES: NVML does not honor it, so it is applied here. `nvml` is the
    pynvml module unless another is given. Never raises because of a driver.
    """
    reasons: list[str] = []
    nvml = nvml or _ask(reasons, "the NVML binding", lambda: importlib.import_module("pynvml"))
    if nvml is None:
        return None, reasons
    try:
        nvml.nvmlInit()
    except Exception as error:
        return None, [f"no NVIDIA driver answers: {_words(error)}"]
    try:
        handle = _ask(reasons, f"GPU {index}", lambda: _handle(nvml, index, visible))
        return (None if handle is None else _read(nvml, handle, reasons)), reasons
    finally:
        _ask(reasons, "the end of the NVML session", nvml.nvmlShutdown)


def free_memory(index: int | None) -> int:
    """Bytes that could be taken now: of the GPU that CUDA would call `index`, of the system where it is None.

    Also the system's where the driver does not say.
    """
    if index is not None:
        try:
            nvml: Any = importlib.import_module("pynvml")
            nvml.nvmlInit()
            try:
                handle = _handle(nvml, index, os.environ.get("CUDA_VISIBLE_DEVICES"))
                return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
            finally:
                nvml.nvmlShutdown()
        except Exception:  # whatever a driver that is not there or does not answer raises
            pass
    return int(psutil.virtual_memory().available)


def _handle(nvml: Any, index: int, visible: str | None) -> Any:
    """NVML's handle of the visible device; of its first slice where it is partitioned (MIG)."""
    if visible is None:
        return _first_slice(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
    entries = [entry.strip() for entry in visible.split(",")]
    if index >= len(entries) or not entries[index] or entries[index] == "-1":
        raise LookupError(f"CUDA_VISIBLE_DEVICES={visible!r} hides it")
    entry = entries[index]
    if entry.isdecimal():
        return _first_slice(nvml, nvml.nvmlDeviceGetHandleByIndex(int(entry)))
    if entry.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(entry)
    for position in range(nvml.nvmlDeviceGetCount()):  # CUDA takes a shortened UUID, NVML does not
        handle = nvml.nvmlDeviceGetHandleByIndex(position)
        if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(entry):
            return _first_slice(nvml, handle)
    raise LookupError(f"CUDA_VISIBLE_DEVICES={visible!r} names no device of this machine")


def _first_slice(nvml: Any, handle: Any) -> Any:
    """CUDA shows the first MIG slice of a partitioned device, never the whole."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != 1:
            return handle
    except Exception:  # most devices cannot be partitioned and say so by an error
        return handle
    return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)


def _is_slice(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceIsMigDeviceHandle(handle))
    except Exception:  # a driver from before MIG
        return False


def _read(nvml: Any, handle: Any, reasons: list[str]) -> Gpu:
    def ask(what: str, question: Callable[[], T]) -> T | None:
        return _ask(reasons, what, question)

    name = ask("the GPU's name", lambda: _text(nvml.nvmlDeviceGetName(handle)))
    major_minor = ask(
        "its compute capability", lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
    )
    cores = ask("its core count", lambda: int(nvml.nvmlDeviceGetNumGpuCores(handle)))
    memory_mhz = ask(
        "its memory clock", lambda: float(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM))
    )
    sm_mhz = ask("its clock", lambda: float(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)))
    milliwatts = ask("its power limit", lambda: float(nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)))
    capability = (int(major_minor[0]), int(major_minor[1])) if major_minor else None
    per_sm = _CORES_PER_SM.get(capability) if capability else None
    return Gpu(
        name=name or "NVIDIA GPU",
        slice=_is_slice(nvml, handle),
        memory_bytes=ask("its memory", lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
        sm_count=cores // per_sm if cores and per_sm else None,
        capability=capability,
        bus_bits=ask("its bus width", lambda: int(nvml.nvmlDeviceGetMemoryBusWidth(handle))),
        memory_clock_hz=memory_mhz * 1e6 if memory_mhz else None,
        sm_clock_hz=sm_mhz * 1e6 if sm_mhz else None,
        watts=milliwatts / 1e3 if milliwatts else None,
        uuid=ask("its UUID", lambda: _text(nvml.nvmlDeviceGetUUID(handle))),
        driver=ask("the driver's version", lambda: _text(nvml.nvmlSystemGetDriverVersion())),
    )


def _ask(reasons: list[str], what: str, question: Callable[[], T]) -> T | None:
    """The answer, or None with a reason.

    Drivers fail in ways of their own: NVMLError, a missing symbol (AttributeError), OSError. None of
    them may end a program that only wanted to know.
    """
    try:
        return question()
    except Exception as error:
        reasons.append(f"{what} could not be read: {_words(error)}")
        return None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
