"""What can be said of accuracies: intervals, paired tests, the Pareto front. Knows no model and no task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054
"""Standard deviations within which 95 % of a normal distribution lie."""
SIGNIFICANT = 0.05
RESAMPLES = 10_000


def wilson(share: float, count: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share of `count` trials (Wilson, 1927); (0, 1) where there are none."""
    if count == 0:
        return 0.0, 1.0
    spread = z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided exact p of `gained` against `lost` problems, all others alike (McNemar, 1947)."""
    count, least = gained + lost, min(gained, lost)
    tail = sum(math.comb(count, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**count)


def bootstrap(differences: Sequence[float], seed: int = 0) -> float:
    """The two-sided p of a mean difference over problems, by resampling problems (Efron, 1979)."""
    values = np.asarray(differences, dtype=np.float64)
    if not values.any():
        return 1.0
    counts = np.random.default_rng(seed).multinomial(
        len(values), np.full(len(values), 1 / len(values)), RESAMPLES
    )
    means = counts @ values
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return min(1.0, 2 * (tail + 1) / (RESAMPLES + 1))


def paired(before: Sequence[float], after: Sequence[float]) -> float:
    """The p of a difference between accuracies on the same problems, each in 0..1.

    By McNemar's test where each problem was solved or not, else by the bootstrap.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    if all(value in (0, 1) for value in (*before, *after)):
        return mcnemar(differences.count(1), differences.count(-1))
    return bootstrap(differences)


def enough(steps: Sequence[Sequence[float]]) -> int:
    """The index of the first step that no later one is significantly better than, on the same problems.

    Each of k later ones is held against SIGNIFICANT / k, so that many do not make one better by chance.
    """
    for at, here in enumerate(steps):
        later = steps[at + 1 :]
        if not any(
            sum(after) > sum(here) and paired(here, after) < SIGNIFICANT / len(later) for after in later
        ):
            return at
    raise ValueError("there are no steps")


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of (cost, accuracy): whether no other costs as little and solves as much, and one of both better."""

    def beaten(point: tuple[float, float]) -> bool:
        return any(
            cost <= point[0] and accuracy >= point[1] and (cost, accuracy) != point
            for cost, accuracy in points
        )

    return [not beaten(point) for point in points]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
