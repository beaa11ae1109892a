"""Bytes in use by this process and on its device, as the system reports them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class SystemMemory:
    """Bytes; `free` is the device's where there is one, else what the system could give to this process."""

    process: int
    process_peak: int
    free: int
    device_used: int | None
    device_total: int | None


def system_memory(device: str) -> SystemMemory:
    """What is in use now. `device` is torch's name."""
    process = psutil.Process().memory_info().rss
    free, device_used, device_total = psutil.virtual_memory().available, None, None
    if device.startswith("cuda"):
        free, device_total = torch.cuda.mem_get_info(device)
        device_used = device_total - free
    return SystemMemory(process, max(process, _peak()), free, device_used, device_total)


def _peak() -> int:
    """The most resident memory that this process had. Linux's getrusage also counts the one it came from."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
