"""Confidence: what an answer says of it follows from the model's own distribution at each token."""

from __future__ import annotations

import math
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.backend import Watch
from engine.load.locate import locate
from engine.meter.receipt import Clock
from engine.protocol import AnswerRequest, Message, ModelSpec, Sampling
from engine.setup import open_backend
from engine.thinking.confidence import confidence
from engine.thinking.run import Steering, answer


async def test_the_confidence_of_an_answer_is_that_of_its_tokens_under_transformers() -> None:
    backend = open_backend(ModelSpec())
    nodes: list[list[int]] = []
    release = backend.cancel

    async def noting(node, **how) -> None:  # type: ignore[no-untyped-def]
        nodes.append(list(node.ids))
        await release(node, **how)

    backend.cancel = noting  # type: ignore[method-assign]
    now = time.monotonic_ns()
    request = AnswerRequest(
        id="a",
        spec=ModelSpec(),
        messages=(Message("user", "What is 4748 + 2674?"),),
        sampling=Sampling(temperature=2, seed=4),
        think="off",
        max_tokens=30,
        confidence=True,
    )
    done = await answer(request, backend, lambda _: None, Steering(), Clock(now, now, 0.0))
    backend.close()
    found = done.candidates[0].confidence
    assert found is not None

    model = AutoModelForCausalLM.from_pretrained(locate("tiny"), dtype=torch.float64)
    [ids] = nodes
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    rows = logs[done.receipt.tokens.prompt - 1 :]
    assert len(rows) in (found.tokens, found.tokens + 1) and found.tokens > 5
    rows = rows[: found.tokens]
    assert found.mean == pytest.approx(float(-rows.topk(20).values.mean()), rel=1e-4)
    assert found.entropy == pytest.approx(float(-(rows.exp() * rows).sum(-1).mean()), rel=1e-4)
    certainty = float((-rows.mean(-1) - math.log(rows.shape[-1])).mean())
    assert found.self_certainty == pytest.approx(certainty, rel=1e-4)


def test_the_lowest_group_is_the_least_sure_passage() -> None:
    def watch(value: float) -> Watch:
        return Watch(top=(-value, -value), entropy=0.0, certainty=0.0)

    values = [5.0] * 40 + [1.0] * 3 + [5.0] * 37  # 80 tokens: a window of 10
    found = confidence([watch(value) for value in values])
    assert found is not None
    assert (found.tokens, found.window) == (80, 10)
    assert found.lowest == pytest.approx((3 * 1 + 7 * 5) / 10)
    assert found.mean == pytest.approx(sum(values) / 80)
    assert confidence([]) is None
