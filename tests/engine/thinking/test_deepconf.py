"""deepconf: who is less sure than the first few is given up midway; the others are the same as without it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from answer_run import Run

from engine.protocol import Cancel, ModelSpec
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking.methods import deepconf
from engine.thinking.methods.deepconf import Bar

HARD = "What is 12 + 7 - 4 + 15 - 9 * 2?"


@pytest.fixture(scope="module")
def tiny() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(model="tiny"))
    yield backend
    backend.close()


async def test_nobody_is_given_up_where_the_bar_is_low(
    tiny: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepconf, "CONSENSUS", 2.0)
    monkeypatch.setattr(Bar, "of", staticmethod(lambda first: Bar(0.0, 4)))
    plain = (await Run(HARD)(tiny, method="best:8")).answer
    done = await Run(HARD)(tiny, method="deepconf:8")
    texts = [(one.answer, one.thinking_tokens) for one in done.answer.candidates]
    assert texts == [(one.answer, one.thinking_tokens) for one in plain.candidates]
    assert done.answer.decision is not None and "given up" not in done.answer.decision.rule
    assert done.answer.receipt.tokens.forwarded() == done.forwarded


async def test_whoever_falls_below_the_bar_ends_there_and_has_no_vote(
    tiny: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepconf, "CONSENSUS", 2.0)
    plain = (await Run(HARD)(tiny, method="best:8")).answer
    monkeypatch.setattr(Bar, "of", staticmethod(lambda first: Bar(1e9, 4)))
    done = await Run(HARD)(tiny, method="deepconf:8")
    first, others = done.answer.candidates[:4], done.answer.candidates[4:]
    assert all(one.answer for one in first) and not any(one.answer or one.kept for one in others)
    for one, whole in zip(others, plain.candidates[4:], strict=True):
        assert 0 < one.thinking_tokens < whole.thinking_tokens
    decision = done.answer.decision
    assert decision is not None and "4 of 8 given up midway" in decision.rule
    assert {name for vote in decision.votes for name in vote.candidates} <= {one.id for one in first}
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    tiny.runner.pool.check_integrity([])


async def test_the_bar_is_where_the_first_few_put_it(
    tiny: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Bar] = []
    monkeypatch.setattr(deepconf, "CONSENSUS", 2.0)
    monkeypatch.setattr(Bar, "lets_pass", lambda bar, one: bars.append(bar) or True)
    done = await Run(HARD)(tiny, method="deepconf:5")
    lowest = [one.confidence.lowest for one in done.answer.candidates[:4] if one.confidence is not None]
    assert bars and min(lowest) * 0.8 <= bars[0].confidence <= max(lowest) and bars[0].window > 1


async def test_it_ends_at_once_where_the_first_few_agree(tiny: LocalBackend) -> None:
    done = await Run("What is 4 + 3?")(tiny, method="deepconf:16")
    answers = {one.answer for one in done.answer.candidates}
    assert len(answers) > 1 or len(done.answer.candidates) == 4


async def test_a_cancelled_one_keeps_the_best_so_far(tiny: LocalBackend) -> None:
    run = Run(HARD)
    run.controls[30] = Cancel()
    done = await run(tiny, method="deepconf:8")
    assert done.answer.finish == "cancelled"
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    tiny.runner.pool.check_integrity([])
