"""How sure the model was of what it said, from what was watched at each token. Knows no backend's inside."""

from __future__ import annotations

from collections.abc import Sequence

from engine.backend import Watch
from engine.protocol import Confidence

WINDOW = 2048
SHARE = 8
"""The window is a share of a short passage: one of 2,048 tokens would see nothing but the mean there."""


def confidence(watched: Sequence[Watch]) -> Confidence | None:
    """Means over all tokens, and the lowest mean over a window of them; None for no tokens.

    Token confidence and its lowest group are DeepConf's (arXiv:2508.15260), self-certainty is that of
    arXiv:2502.18581; the group's length is scaled down for passages shorter than its own.
    """
    if not watched:
        return None
    count = len(watched)
    values = [watch.confidence for watch in watched]
    window = max(1, min(WINDOW, count // SHARE))
    group = sum(values[:window])
    lowest = group
    for at in range(window, count):
        group += values[at] - values[at - window]
        lowest = min(lowest, group)
    return Confidence(
        tokens=count,
        entropy=sum(watch.entropy for watch in watched) / count,
        self_certainty=sum(watch.certainty for watch in watched) / count,
        mean=sum(values) / count,
        lowest=lowest / window,
        window=window,
    )
