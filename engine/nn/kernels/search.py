"""The search of engine/nn/rounding.py for scales, by the kernel of round.c on a processor."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from engine.nn.kernels.build import kernels

_LANES = 8
_ENOUGH = 2**16
"""Values below which a thread more is not worth starting."""


def search(
    groups: torch.Tensor, bits: int, ends: Sequence[float], weights: torch.Tensor | None
) -> torch.Tensor | None:
    """The scales [n] float32 for groups [n, group] float32; None where no kernel can."""
    found = kernels() if groups.device.type == "cpu" and groups.shape[1] % _LANES == 0 else None
    if found is None:
        return None
    values, group = groups.contiguous(), groups.shape[1]
    costs = (torch.ones(group) if weights is None else weights.float()).contiguous()
    tried = torch.tensor(ends, dtype=torch.float32)
    scales = torch.empty(len(values))
    library = found.library

    def part(begin: int, end: int) -> None:
        library.mull_search(
            values[begin:].data_ptr(),
            costs.data_ptr(),
            end - begin,
            group,
            bits,
            tried.data_ptr(),
            len(tried),
            scales[begin:].data_ptr(),
        )

    threads = min(torch.get_num_threads(), 1 + values.numel() // _ENOUGH)
    bounds = [number * len(values) // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, bounds[:-1], bounds[1:]))
    return scales
