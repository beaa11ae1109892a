"""Judges by what was watched while sampling: it costs nothing more. Knows no question and no answer."""

from __future__ import annotations

from collections.abc import Sequence

from engine.thinking.confidence import confidence
from engine.thinking.context import Context
from engine.thinking.step_scorer import is_sound
from engine.thinking.verifiers.judgement import Judgement

BORDA = 0.5
"""Power of a rank's votes."""


def lowest(one: Context) -> float:
    """A candidate's lowest confidence over a window, DeepConf's measure (arXiv:2508.15260)."""
    found = confidence(one.watched)
    return found.lowest if found is not None else 0.0


def by_confidence(candidates: Sequence[Context]) -> Judgement:
    """Each by its lowest confidence."""
    return Judgement({one.candidate: lowest(one) for one in candidates}, "confidence")


def by_steps(candidates: Sequence[Context]) -> Judgement:
    """As by confidence, but a thought with a wrong step that it does not take back has no say, unless all
    have one.
    """
    sound = [one for one in candidates if is_sound(one.thinking)]
    rule = f"confidence, of the {len(sound)} of {len(candidates)} thoughts without a wrong step"
    return Judgement(
        {one.candidate: lowest(one) for one in sound or candidates},
        rule if sound else "confidence; all thoughts have a wrong step",
    )


def by_certainty(candidates: Sequence[Context]) -> Judgement:
    """By rank in self-certainty: of N, the r-th has (N - r + 1)^0.5 votes (arXiv:2502.18581, section 3)."""
    certain = {one.candidate: _self_certainty(one) for one in candidates}
    ranked = sorted(certain, key=lambda name: -certain[name])
    votes = {name: (len(ranked) - rank) ** BORDA for rank, name in enumerate(ranked)}
    return Judgement(votes, f"self-certainty's ranking of {len(ranked)}")


def _self_certainty(one: Context) -> float:
    found = confidence(one.watched)
    return found.self_certainty if found is not None else float("-inf")
