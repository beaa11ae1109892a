"""How sure the model was of what it said, from what was watched at each token. Knows no backend's inside."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.backend import Watch
from engine.protocol import Confidence

WINDOW = 2048
SHARE = 8
"""The window is a share of a short passage: one of 2,048 tokens would see nothing but the mean there."""


def window_of(tokens: int) -> int:
    """How many tokens of a passage of so many are a group."""
    return max(1, min(WINDOW, tokens // SHARE))


def lowest_group(watched: Sequence[Watch], window: int) -> float:
    """The lowest mean confidence over so many tokens, or over all where there are fewer; 0 for none."""
    window = min(window, len(watched))
    if not window:
        return 0.0
    values = [watch.confidence for watch in watched]
    group = lowest = sum(values[:window])
    for at in range(window, len(values)):
        group += values[at] - values[at - window]
        lowest = min(lowest, group)
    return lowest / window


def likelihood(watched: Sequence[Watch]) -> float:
    """In 0..1: the geometric mean of its tokens' probabilities; 0 for none."""
    if not watched:
        return 0.0
    return math.exp(sum(watch.chosen for watch in watched) / len(watched))


def certainty(watched: Sequence[Watch]) -> float:
    """The mean over tokens of the largest probability (DEER, arXiv:2504.15895); 0 for no tokens."""
    return sum(math.exp(watch.top[0]) for watch in watched) / len(watched) if watched else 0.0


def confidence(watched: Sequence[Watch]) -> Confidence | None:
    """Means over all tokens, and the lowest mean over a window of them; None for no tokens.

    Token confidence and its lowest group are DeepConf's (arXiv:2508.15260), self-certainty is that of
    arXiv:2502.18581; the group's length is scaled down for passages shorter than its own.
    """
    if not watched:
        return None
    count = len(watched)
    window = window_of(count)
    return Confidence(
        tokens=count,
        entropy=sum(watch.entropy for watch in watched) / count,
        self_certainty=sum(watch.certainty for watch in watched) / count,
        mean=sum(watch.confidence for watch in watched) / count,
        lowest=lowest_group(watched, window),
        window=window,
    )
