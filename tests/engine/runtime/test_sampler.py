"""Sampling is a function of seed, path, position and id, and follows the model's distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from engine.backend import Sampler
from engine.runtime import sampler as sampling
from engine.runtime.sampler import NotFinite, choose, gumbel, philox

LOGITS = np.random.default_rng(0).normal(0, 2, 500).astype(np.float32)


def words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.uint64) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            0xFFFFFFFF_FFFFFFFF,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: tuple[int, ...], key: int, expected: tuple[int, ...]
) -> None:
    assert tuple(int(word[0]) for word in philox(words(*counter), key)) == expected


def draw(
    positions: range,
    *,
    temperature: float = 1,
    top_p: float = 1,
    top_k: int = 0,
    seed: int = 0,
    path: int = 0,
):
    sampler = Sampler(temperature, top_p, top_k, seed)
    return [choose(LOGITS, sampler, position, path) for position in positions]


def test_equal_seeds_give_equal_tokens_and_another_seed_path_or_position_gives_others() -> None:
    tokens = draw(range(100), seed=3)
    assert tokens == draw(range(100), seed=3)
    assert tokens != draw(range(100), seed=4)
    assert tokens != draw(range(100), seed=3 + (1 << 32))
    assert tokens != draw(range(100), seed=3, path=1)
    assert tokens != draw(range(100), seed=3, path=1 << 32)
    assert tokens[1:] == draw(range(1, 100), seed=3) != tokens[:-1]


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1, 1, 0), (0.7, 1, 0), (1, 0.9, 0), (1.3, 0.95, 20)]
)
def test_samples_follow_the_filtered_distribution(temperature: float, top_p: float, top_k: int) -> None:
    count = 6_000
    scores = torch.from_numpy(LOGITS)[None] / temperature
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = scores.softmax(-1)[0].double().numpy() * count
    tokens = draw(range(count), temperature=temperature, top_p=top_p, top_k=top_k)
    observed = np.bincount(tokens, minlength=len(LOGITS))
    assert observed[expected == 0].sum() == 0
    often = expected >= 5
    rare = (~often) & (expected > 0)
    bins = list(zip(observed[often], expected[often], strict=True))
    if rare.any():
        bins.append((observed[rare].sum(), expected[rare].sum()))
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in bins)
    # Five standard deviations of a chi-square variable with as many degrees of freedom; the seed is fixed.
    freedom = len(bins) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_a_vanishing_temperature_is_the_argmax() -> None:
    best = int(LOGITS.argmax())
    assert set(draw(range(200), temperature=0)) == {best}
    assert set(draw(range(200), temperature=1e-6)) == {best}
    assert set(draw(range(200), top_k=1)) == {best}
    assert set(draw(range(200), top_p=1e-9)) == {best}


def test_leaving_out_ids_that_cannot_win_changes_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = LOGITS * 8
    sampler = Sampler(1, 1, 0, 7)
    pruned = [choose(wide, sampler, position) for position in range(300)]
    monkeypatch.setattr(sampling, "_REACH", float("inf"))
    assert pruned == [choose(wide, sampler, position) for position in range(300)]
    noise = gumbel(np.arange(100_000), 0, 0, 0)
    assert noise.min() > -3.2 and noise.max() < 22.9


def test_bans_and_raises_act_before_the_choice_and_leave_the_logits_alone() -> None:
    logits, greedy = LOGITS.copy(), Sampler(0, 1, 0, 0)
    best = int(logits.argmax())
    assert choose(logits, greedy, 0, banned={best}) == int(np.argsort(logits)[-2])
    assert choose(logits, greedy, 0, raised=(17, 1e3)) == 17
    assert np.array_equal(logits, LOGITS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    logits = LOGITS.copy()
    logits[5] = bad
    with pytest.raises(NotFinite):
        choose(logits, Sampler(1, 1, 0, 0), 0)


@pytest.mark.parametrize("temperature", [0.3, 0.8, 3])
def test_the_kernel_draws_what_the_formula_draws(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampling.kernels() is not None, "these tests need a C compiler"
    sampler = Sampler(temperature, 1, 0, seed=5 + (1 << 40))
    logits = [np.random.default_rng(seed).normal(0, 3, 700).astype(np.float32) for seed in range(300)]

    def drawn() -> list[int]:
        paths = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(len(logits))]
        return [
            choose(row, sampler, at, path) for at, (row, path) in enumerate(zip(logits, paths, strict=True))
        ]

    by_kernel = drawn()
    monkeypatch.setattr(sampling, "kernels", lambda: None)
    assert by_kernel == drawn()
    assert len(set(by_kernel)) > 30
