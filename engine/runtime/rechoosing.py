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

_FAR = 1e6
"""Logits by which what is banned lies behind all others."""

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
    what takes most counts.
    """
    if choice.id in choice.banned:
        return float("inf")
    values = logits.astype(np.float64)
    if choice.raised:
        values[choice.raised[0]] += choice.raised[1]
    values[list(choice.banned)] = values.min() - _FAR
    sampler, at = choice.sampler, choice.id
    if sampler.temperature <= 0:
        return float(values.max() - values[at])
    noise = gumbel(np.arange(len(values)), choice.position, choice.path, sampler.seed)
    perturbed = values + sampler.temperature * noise
    behind = np.maximum(perturbed - perturbed[at], 0.0)
    depth = _depth(values, sampler)
    return float(max(np.minimum(behind, np.maximum(depth, 0.0)).max(), -depth[at]))


def _depth(values: NDArray[np.float64], sampler: Sampler) -> NDArray[np.float64]:
    """How far in logits each id is inside the filters; where it is outside, negative."""
    order = np.argsort(-values, kind="stable")
    sorted_values = values[order]
    depth = np.full(len(values), np.inf)
    kept = len(values)
    if 0 < sampler.top_k < kept:
        kept = int(np.count_nonzero(sorted_values >= sorted_values[sampler.top_k - 1]))
        if kept < len(values):
            depth = _beyond(sorted_values, kept)
    if sampler.top_p < 1:
        shares = np.exp((sorted_values[:kept] - sorted_values[0]) / sampler.temperature)
        before = (np.cumsum(shares) - shares) / shares.sum()
        nucleus = int(np.count_nonzero(before < sampler.top_p))
        # the mass before an id reaches top_p by a shift of its log-odds; or ids change places
        with np.errstate(divide="ignore"):
            odds = np.log(before) - np.log1p(-np.minimum(before, 1 - 1e-12))
        mass = sampler.temperature * (np.log(sampler.top_p) - np.log1p(-sampler.top_p) - odds)
        if nucleus < kept:
            places = _beyond(sorted_values[:kept], nucleus)
            mass = np.sign(mass) * np.minimum(np.abs(mass), np.abs(places))
        depth[:kept] = np.minimum(depth[:kept], mass)
    found = np.empty(len(values))
    found[order] = depth
    return found


def _beyond(descending: NDArray[np.float64], kept: int) -> NDArray[np.float64]:
    """How far each value lies from the other side of the cut after the first `kept`; negative behind it."""
    inside = np.arange(len(descending)) < kept
    return np.where(inside, descending - descending[kept], descending - descending[kept - 1])
