"""Intervals, paired tests, the front and where thinking is enough, against their definitions written out."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bench.statistics import Z95, bootstrap, enough, front, mcnemar, paired, quantile, wilson

SHARE = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize(("solved", "count"), [(0, 5), (5, 5), (1, 7), (41, 120), (999, 1000)])
def test_the_interval_holds_the_rates_under_which_the_share_is_no_surprise(solved: int, count: int) -> None:
    low, high = wilson(solved / count, count)
    share = solved / count
    for rate in (step / 2000 for step in range(1, 2000)):
        surprise = abs(share - rate) / math.sqrt(rate * (1 - rate) / count)
        if abs(surprise - Z95) > 0.05:
            assert (low <= rate <= high) == (surprise < Z95), rate
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (6, 1), (3, 3), (9, 2)])
def test_mcnemar_counts_the_coin_flips_that_part_as_far(gained: int, lost: int) -> None:
    count = gained + lost
    far = sum(abs(2 * sum(flips) - count) >= abs(gained - lost) for flips in product((0, 1), repeat=count))
    assert mcnemar(gained, lost) == pytest.approx(far / 2**count)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_the_bootstrap_agrees_with_mcnemar_where_both_apply_and_is_the_same_each_time() -> None:
    rng = random.Random(3)
    for gained, lost in ((30, 10), (22, 18), (40, 35)):
        differences = [1.0] * gained + [-1.0] * lost + [0.0] * 100
        rng.shuffle(differences)
        assert bootstrap(differences) == bootstrap(differences)
        assert bootstrap(differences) == pytest.approx(mcnemar(gained, lost), abs=0.12)
    assert bootstrap([0.0] * 9) == 1.0
    assert bootstrap([0.5] * 40) < 0.001


def test_several_answers_to_a_problem_are_compared_by_the_bootstrap() -> None:
    assert paired([0, 1, 0, 0], [1, 1, 1, 0]) == mcnemar(2, 0)
    before, after = [0.25, 0.5] * 30, [0.75, 0.5] * 30
    assert paired(before, after) == bootstrap([0.5, 0.0] * 30) < 0.01


def test_thinking_is_enough_where_no_larger_budget_is_surely_better() -> None:
    nothing, half = [0.0] * 40, [1.0] * 20 + [0.0] * 20
    nearly = [1.0] * 22 + [0.0] * 18
    every = [1.0] * 40
    assert enough([nothing, half, nearly]) == 1, "two more of forty may be chance"
    assert enough([nothing, half, nearly, every]) == 3
    assert enough([every, half, nothing]) == 0, "thinking may harm"
    assert enough([half]) == 0
    # six gained and none lost is p = 0.031: enough for one comparison, not for two
    six = [1.0] * 26 + [0.0] * 14
    assert enough([half, six]) == 1
    assert enough([half, six, six]) == 0


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, 4.0]), SHARE), max_size=8))
def test_on_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    for point, mark in zip(points, front(points), strict=True):
        better = [
            other
            for other in points
            if (other[0] < point[0] and other[1] >= point[1])
            or (other[0] <= point[0] and other[1] > point[1])
        ]
        assert mark == (not better)


@given(st.lists(st.integers(0, 50), min_size=1), st.sampled_from([0.25, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_the_least_value_that_holds_its_share(values: list[int], share: float) -> None:
    found = quantile(values, share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)
