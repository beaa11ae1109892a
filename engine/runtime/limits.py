"""What the machine gives at most, measured on the spot: bytes read per second, FLOP/s of matrix products.

To be called on the engine's own thread, for torch keeps the number of threads by thread. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from engine.backend import Limits
from engine.nn.linear import Linear, Packed, Plain, can_pack
from engine.protocol import Quantity, unavailable
from engine.runtime.memory import system_memory

SPAN_S = 0.3
"""Seconds for which a product is repeated; the best counts, for whatever disturbs makes it slower."""
LONGEST_S = 0.25
"""Seconds beyond which a larger matrix product is not tried."""
BUFFER = 256 * 2**20
"""Bytes that are read at least."""
TIMES_CACHE = 4
"""How many times the last-level cache the buffer is: what is left in the cache may not pass for memory."""
UNKNOWN_CACHE = 128 * 2**20
"""Bytes that the last-level cache is taken to have where it cannot be read."""
COLUMNS = 4096
SIZES = (256, 512, 1024, 2048, 4096, 8192)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@torch.inference_mode()
def measure(device: str, dtype: str) -> Limits:
    """Read bandwidth and matrix rate with the calling thread's number of threads; takes a few seconds."""
    cache = last_level_cache(device)
    return Limits(_bandwidth(device, cache or UNKNOWN_CACHE), _peak(device, dtype), cache)


def last_level_cache(device: str) -> int | None:
    """Bytes of the cache nearest to memory, all instances together; None where the system does not tell."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found: dict[str, int] = {}
    for processor in Path("/sys/devices/system/cpu").glob("cpu[0-9]*"):
        try:
            last = max((processor / "cache").glob("index*"), key=lambda index: index.name)
            shared = (last / "shared_cpu_list").read_text("ascii").strip()
            size = (last / "size").read_text("ascii").strip()
            found[shared] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            return None
    return sum(found.values()) or None


def _bandwidth(device: str, cache: int) -> Quantity:
    """By products of a matrix far larger than the cache with a vector: each reads the matrix once."""
    size = max(BUFFER, TIMES_CACHE * cache)
    free = system_memory(device).free
    if size > free // 2:
        return unavailable("B/s", f"{size / 1e6:.0f} MB to read from are more than half of the free memory")
    matrix = torch.ones(size // 4 // COLUMNS, COLUMNS, device=device)
    vector, out = matrix[0].clone(), matrix[:, 0].clone()
    rates = [matrix.nbytes / seconds for seconds in _times(lambda: torch.mv(matrix, vector, out=out), device)]
    return _best(rates, "B/s", f"reads of {size / 1e6:.0f} MB", device)


def _peak(device: str, dtype: str) -> Quantity:
    """By products of square matrices, in the layouts that models run in, up to a size that takes long."""
    rates: list[float] = []
    for size in SIZES:
        weight = torch.randn(size, size, device=device).to(_DTYPES[dtype])
        rows = torch.randn(size, size, device=device).to(_DTYPES[dtype])
        linears: list[Linear] = [Plain(weight)]
        if can_pack(weight.dtype, device):
            linears.append(Packed(Plain(weight)))
        fastest = LONGEST_S
        for linear in linears:
            times = _times(lambda linear=linear, rows=rows: linear(rows), device)  # type: ignore[misc]
            rates += [2 * size**3 / seconds for seconds in times]
            fastest = min(fastest, *times)
        if 8 * fastest > LONGEST_S:
            break
    return _best(rates, "FLOP/s", f"{dtype} matrix products", device)


def _times(work: Callable[[], object], device: str) -> list[float]:
    """Seconds of each repetition, after one that does not count."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()
    times = [once()]
    while len(times) < 3 or sum(times) < SPAN_S:
        times.append(once())
    return times


def _best(rates: list[float], unit: str, what: str, device: str) -> Quantity:
    threads = torch.get_num_threads()
    where = device if device != "cpu" else "1 thread" if threads == 1 else f"{threads} threads"
    return Quantity(
        value=max(rates),
        unit=unit,  # type: ignore[arg-type]
        method="measured",
        source=f"best of {len(rates)} {what}, {where}",
        low=min(rates),
        high=max(rates),
    )
