"""What fits into memory, before anything is loaded: the loader's own arithmetic. Knows no files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from profiles.costs import kv_bytes_per_token
from profiles.shape import ModelShape

KV_SHARE = 0.25
"""The part of the free memory that keys and values may take."""
DEFAULT_CONTEXT = 8192
"""Tokens, where neither the request nor the model says less."""
LEAST_CONTEXT = 64
"""Tokens without which there is nothing to run: a page of the cache."""

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of a value, by dtype."""
_STORED = {"F32": "fp32", "F64": "fp32"}
SMALL_BYTES = 64 * 2**20
"""Weights in 16 bits below which a processor's caches, not its memory, bound a step."""

Verdict = Literal["fits", "tight", "no"]


@dataclass(frozen=True)
class Fit:
    """How a model would load. `tight`: with less context than it would get where memory has room."""

    verdict: Verdict
    dtype: str
    weight_bytes: int
    context: int
    """Tokens; 0 where it does not fit."""


def loading_dtype(
    stored: str, preferred: str, weights: Callable[[int], int], free: int, device: str = "cpu"
) -> str:
    """The dtype of values that are not quantized: float32 stays so, others get the machine's.

    Or 16 bits where only those fit. A small model computes in float32 on a processor, whichever dtype it
    prefers: there are no bytes to save, and its products and attention are quicker so. `stored` is
    safetensors' name of what the files have; `weights` gives the bytes of all weights by a value's.
    """
    small = device == "cpu" and weights(2) < SMALL_BYTES
    dtype = _STORED.get(stored, "fp32" if small else preferred)
    return "bf16" if dtype == "fp32" and stored not in _STORED and weights(4) > free else dtype


def affordable_context(shape: ModelShape, free: int) -> int:
    """Tokens whose keys and values free memory can take."""
    return int(free * KV_SHARE / kv_bytes_per_token(shape))


def fit(
    shape: ModelShape,
    longest: int,
    stored: str,
    preferred: str,
    weights: Callable[[int], int],
    free: int,
    device: str = "cpu",
) -> Fit:
    """Whether a model fits into `free` bytes and with how much context, of at most `longest` tokens.

    For the rest see `loading_dtype`.
    """
    dtype = loading_dtype(stored, preferred, weights, free, device)
    needed = weights(BYTES[dtype])
    left = free - needed
    wanted = min(longest, DEFAULT_CONTEXT)
    context = min(wanted, affordable_context(replace(shape, kv_bytes=BYTES[dtype]), max(left, 0)))
    if left < 0 or context < min(LEAST_CONTEXT, wanted):
        return Fit("no", dtype, needed, 0)
    return Fit("fits" if context == wanted else "tight", dtype, needed, context)
