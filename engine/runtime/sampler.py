"""From logits to a token, with randomness that has no state: a function of seed, path, position and id.

Knows no torch. Noise is Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011), used as Gumbel-max over the logits that temperature, top-k and top-p leave.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from engine.backend import Sampler
from engine.nn.kernels.build import kernels

Words = NDArray[np.uint64]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10

_REACH = 27.0
"""Gumbel noise of a 32-bit uniform lies within (-3.2, 22.9): no logit further below the best can win."""


class NotFinite(ArithmeticError):
    """The model's logits are not numbers."""

    def __init__(self) -> None:
        super().__init__("the model computed logits that are not numbers; its weights may be damaged")


def philox(counter: tuple[Words, Words, Words, Words], seed: int) -> tuple[Words, Words, Words, Words]:
    """Philox 4x32-10 on arrays of counters: four 32-bit words each, held in uint64; `seed` has 64 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def gumbel(ids: NDArray[np.int64], position: int, path: int, seed: int) -> NDArray[np.float64]:
    """Standard Gumbel noise for vocabulary ids at a token position on a path (64 bits)."""
    words = ids.astype(np.uint64)
    rest = [np.full_like(words, word) for word in (position, path & 0xFFFFFFFF, path >> 32 & 0xFFFFFFFF)]
    bits = philox((words, *rest), seed)[0]  # type: ignore[arg-type]
    uniform: NDArray[np.float64] = (bits.astype(np.float64) + 0.5) / 2.0**32
    return -np.log(-np.log(uniform))


def choose(
    logits: NDArray[np.float32],
    sampler: Sampler,
    position: int,
    path: int = 0,
    banned: Iterable[int] = (),
    raised: tuple[int, float] | None = None,
) -> int:
    """The token at `position`: the argmax at temperature 0, else a sample. `logits` is [vocabulary].

    `banned` ids are never chosen; `raised` is an id and what is added to its logit. Raises NotFinite.
    """
    banned = list(banned)
    if banned or raised:
        logits = logits.copy()
        if raised:
            logits[raised[0]] += raised[1]
        logits[banned] = -np.inf
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):
        raise NotFinite
    if sampler.temperature <= 0:
        return best
    ids, scores = _kept(logits, float(logits[best]), sampler)
    if len(ids) == 1:
        return int(ids[0])
    return int(ids[_drawn(ids, scores, position, path, sampler.seed)])


def _drawn(ids: NDArray[np.int64], scores: NDArray[np.float64], position: int, path: int, seed: int) -> int:
    """The index of the largest score plus noise."""
    found = kernels()
    if found is None:
        return int((scores + gumbel(ids, position, path, seed)).argmax())
    return int(found.library.mull_draw(ids.ctypes.data, scores.ctypes.data, len(ids), position, path, seed))


def _kept(
    logits: NDArray[np.float32], best: float, sampler: Sampler
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids that temperature, top-k and top-p leave in reach of winning, and their scores (the best has 0)."""
    floor = best - _REACH * sampler.temperature
    if 0 < sampler.top_k < len(logits):
        # Ties with the k-th stay, whichever ids they have.
        floor = max(floor, float(np.partition(logits, -sampler.top_k)[-sampler.top_k]))
    ids = np.flatnonzero(logits >= floor)
    scores = (logits[ids].astype(np.float64) - best) / sampler.temperature
    if sampler.top_p < 1:
        order = np.argsort(-scores, kind="stable")
        shares = np.exp(scores[order])
        shares /= shares.sum()
        kept = order[np.cumsum(shares) - shares < sampler.top_p]
        ids, scores = ids[kept], scores[kept]
    return ids, scores
