"""Choices made again from logits that were computed in one pass, and by how much each one failed or held.

Knows the sampler and what a primitive wants; nothing of why somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.backend import Choice, Rechosen, Sampler
from engine.runtime import sequence as sequences
from engine.runtime.primitives import Stopped, Want
from engine.runtime.sampler import choose, gumbel

AT_ONCE = 64
"""Ids of a path in one forward: each takes a row of logits."""

Told = Callable[[int], None]


def read(
    sequence: sequences.Sequence, ids: Sequence[int], told: Told
) -> Generator[Want, torch.Tensor | None, None]:
    """Forward a prompt, of which nothing is taken from the cache. `told` gets the tokens done."""
    done = 0

    def progressed(now: int) -> None:
        nonlocal done
        told(now - done)
        done = now

    sequence.ids = list(ids)
    try:
        yield Want(sequence, "score", "score", "prefill", progressed=progressed)
    except Stopped as stopped:
        _give_up(stopped, len(ids))


def rechoose(
    sequence: sequences.Sequence, ids: Sequence[int], choices: Sequence[Choice], told: Told
) -> Generator[Want, torch.Tensor | None, list[Rechosen]]:
    """Forward ids after a prompt, and make the choices among them again."""
    known = len(sequence.ids)
    rows = np.asarray(sequence.logits)[None]
    found: list[Rechosen] = []
    try:
        for begin in range(0, len(ids) + 1, AT_ONCE):
            part = ids[begin : begin + AT_ONCE]
            first = known + begin
            if part:
                sequence.ids += part
                following = yield Want(sequence, "score", "score", "answer", logits=len(part))
                assert following is not None
                rows = np.concatenate([rows[-1:], following.cpu().numpy()])
                told(len(part))
            else:
                rows = rows[-1:]
            # the first row is what follows the id before this part
            last = first + len(part) if begin + len(part) == len(ids) else first + len(part) - 1
            for choice in choices[len(found) :]:
                if choice.position > last:
                    break
                found.append(_again(choice, rows[choice.position - first]))
    except Stopped as stopped:
        _give_up(stopped, len(sequence.ids))
    return found


def _give_up(stopped: Stopped, tokens: int) -> None:
    if stopped.reason == "memory":
        raise MemoryError(f"there is no memory to recompute {tokens} tokens") from None


def _again(choice: Choice, logits: NDArray[np.float32]) -> Rechosen:
    token = choose(logits, choice.sampler, choice.position, choice.path, choice.banned, choice.raised)
    gap = 0.0 if token == choice.id else margin(logits, choice)
    return Rechosen(token, float(logits[choice.id]), gap)


def margin(logits: NDArray[np.float32], choice: Choice) -> float:
    """By how much two logits would have to differ from these for the choice to come out as it did.

    Each id that beats the chosen one must fall behind it or out of the filters, and the chosen one into them;
    what takes most counts. Leaving the nucleus takes a shift of the log-odds of the mass before the id.
    """
    if choice.id in choice.banned:
        return float("inf")
    values = logits.astype(np.float64)
    if choice.raised:
        values[choice.raised[0]] += choice.raised[1]
    values[list(choice.banned)] = -np.inf
    sampler, at = choice.sampler, choice.id
    if sampler.temperature <= 0:
        return float(values.max() - values[at])
    ids = np.arange(len(values))
    noise = gumbel(ids, choice.position, choice.path, sampler.seed)
    perturbed = values + sampler.temperature * noise
    behind = np.maximum(perturbed - perturbed[at], 0.0)
    inside = _inside(values, sampler)
    to_leave = np.maximum(inside, 0.0)
    return float(max(np.minimum(behind, to_leave).max(), max(-inside[at], 0.0)))


def _inside(values: NDArray[np.float64], sampler: Sampler) -> NDArray[np.float64]:
    """How far in logits each id is inside the filters; outside of them it is negative."""
    depth = np.full(len(values), np.inf)
    order = np.argsort(-values, kind="stable")
    if 0 < sampler.top_k < len(values):
        least, next_one = values[order[sampler.top_k - 1]], values[order[sampler.top_k]]
        depth = np.where(values >= least, values - next_one, values - least)
    if sampler.top_p < 1:
        kept = order if not 0 < sampler.top_k < len(values) else order[values[order] >= least]
        shares = np.exp((values[kept] - values[order[0]]) / sampler.temperature)
        before = (np.cumsum(shares) - shares) / shares.sum()
        with np.errstate(divide="ignore"):
            odds = np.log(before) - np.log1p(-np.minimum(before, 1 - 1e-12))
        threshold = np.log(sampler.top_p) - np.log1p(-sampler.top_p)
        depth[kept] = np.minimum(depth[kept], sampler.temperature * (threshold - odds))
    return depth
