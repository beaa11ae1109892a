"""Candidates' answers counted: which are the same, who leads, and when more would hardly change it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.protocol import Decision, Vote
from engine.tasks.answer_types import compare

SURE = 0.95


def count(answers: Sequence[tuple[str, str, float]], labels: Sequence[str] | None = None) -> tuple[Vote, ...]:
    """Votes for (candidate, answer, weight) by what they answer, the heaviest first, then the earliest.

    `labels` are the answers as they are compared; without them they are compared as what they look like.
    Who gives no answer has no vote.
    """
    if labels is None:
        labels = compare([answer for _, answer, _ in answers], algebra=False).labels
    groups: dict[str, list[tuple[str, float]]] = {}
    for (candidate, _, weight), said in zip(answers, labels, strict=True):
        if said:
            groups.setdefault(said, []).append((candidate, weight))
    votes = [
        Vote(
            answer=said,
            candidates=tuple(candidate for candidate, _ in group),
            weight=sum(weight for _, weight in group),
        )
        for said, group in groups.items()
    ]
    return tuple(sorted(votes, key=lambda vote: -vote.weight))


def settled(leader: int, second: int) -> bool:
    """Whether a majority this clear is a lasting one: with probability SURE, were there only these two.

    Source: Aggarwal et al., "Let's Sample Step by Step: Adaptive-Consistency", 2023 (arXiv:2305.11860), the
    Beta rule written as a sum of binomials.
    """
    total = leader + second + 1
    return sum(math.comb(total, j) for j in range(leader + 1)) >= SURE * 2**total


def until_settled(leader: int, second: int) -> int:
    """How many more votes for the leader alone would settle it."""
    more = 0
    while not settled(leader + more, second):
        more += 1
    return more


def next_wave(votes: Sequence[Vote], asked: int, most: int) -> int:
    """How many samples more are wanted after `asked`, at most `most` in all; 0 where the vote is over.

    It is over where the heaviest answer has a lasting majority of samples, or where all that are left, of
    weight 1 at most, could not make up for what it is ahead by.
    """
    left = most - asked
    counts = [len(vote.candidates) for vote in votes]
    leader, second = counts[0] if counts else 0, max(counts[1:], default=0)
    ahead = votes[0].weight - (votes[1].weight if len(votes) > 1 else 0.0) if votes else 0.0
    if settled(leader, second) or ahead > left:
        return 0
    return min(left, until_settled(leader, second))


def decision(rule: str, votes: tuple[Vote, ...]) -> Decision:
    """The first vote chosen by a rule."""
    total = sum(vote.weight for vote in votes)
    second = votes[1].weight if len(votes) > 1 else 0.0
    return Decision(rule=rule, votes=votes, margin=(votes[0].weight - second) / total if total else 0.0)
