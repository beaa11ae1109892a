"""Answers with guesses: the same text, and a receipt that says what guessing took."""

from __future__ import annotations

import time
from importlib.resources import as_file, files
from pathlib import Path

import msgspec
import pytest
import scripted_checkpoint

from engine.load.tokenizer import HubTokenizer
from engine.meter.receipt import Clock
from engine.protocol import Answer, AnswerRequest, Event, Message, Metered, ModelSpec, Sampling
from engine.runtime.speculation import Speculation
from engine.setup import open_backend
from engine.thinking.run import Steering, answer
from profiles.costs import prefill_flops

with as_file(files("assets") / "tiny") as folder:
    TINY = Path(folder)
TOKENIZER = HubTokenizer(TINY)
THINK, EOS = (TOKENIZER.encode(text)[0] for text in ("<think>", "<|im_end|>"))
A, B, C, D, E = TOKENIZER.encode("12345")
CLOSED = TOKENIZER.encode("\n</think>\n\n")[-1]
SCRIPT = {THINK: A, A: B, B: C, C: A, CLOSED: D, D: E, E: D}
"""It thinks 1 2 3 1 2 3 … and answers 4 5 4 5 …, both without an end."""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess as much as can be guessed, whatever the clock says of its worth."""
    monkeypatch.setattr(Speculation, "_best", lambda _self, _others, _chance, most, each: (most, 1.0 + each))


class Told:
    """An answer, what was heard of it, and what the runner counted."""

    def __init__(self, model: Path, draft: str | None) -> None:
        self.backend = open_backend(ModelSpec(model=str(model), draft=draft))
        self.events: list[Event] = []
        self.answer: Answer
        self.forwarded = 0

    async def __call__(self, temperature: float = 0.0) -> Told:
        request = AnswerRequest(
            id="a",
            spec=ModelSpec(),
            messages=(Message("user", "How many?"),),
            think=60,
            max_tokens=40,
            sampling=Sampling(temperature=temperature, seed=5),
        )
        now, before = time.monotonic_ns(), self.backend.runner.forwarded_tokens
        self.answer = await answer(
            request, self.backend, self.events.append, Steering(), Clock(now, now, 0.0)
        )
        self.forwarded = self.backend.runner.forwarded_tokens - before
        self.backend.runner.pool.check_integrity([])
        return self

    def seconds(self, primitive: str) -> float:
        steps = self.answer.receipt.steps
        return sum(step.seconds for step in steps if step.primitive == primitive)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return scripted_checkpoint.write(tmp_path / "model", TINY, SCRIPT, TOKENIZER.size)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A smaller model that knows nothing of the answer."""
    script = {**SCRIPT, D: C}
    return scripted_checkpoint.write(
        tmp_path / "small", TINY, script, TOKENIZER.size, num_hidden_layers=1, hidden_size=128
    )


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("draft", [None, "exit:1", "small"])
async def test_an_answer_with_guesses_is_the_answer_without(
    model: Path, small: Path, draft: str | None, temperature: float
) -> None:
    plain = await Told(model, "off")(temperature)
    guessed = await Told(model, str(small) if draft == "small" else draft)(temperature)
    for name in ("answer", "thinking", "finish"):
        assert getattr(guessed.answer, name) == getattr(plain.answer, name)
    before, tokens = plain.answer.receipt.tokens, guessed.answer.receipt.tokens
    assert tokens == msgspec.structs.replace(
        before, draft_accepted=tokens.draft_accepted, draft_rejected=tokens.draft_rejected
    )
    assert (before.draft_accepted, before.draft_rejected) == (0, 0)
    assert tokens.draft_accepted > 10
    assert tokens.forwarded() == guessed.forwarded
    assert plain.forwarded == guessed.forwarded - tokens.draft_rejected


async def test_a_receipt_tells_apart_what_was_guessed_by_whom_and_in_vain(model: Path, small: Path) -> None:
    guessed = await Told(model, str(small))()
    receipt, shape = guessed.answer.receipt, guessed.backend.shape
    own = [step for step in receipt.steps if step.primitive != "draft"]
    drafts = [step for step in receipt.steps if step.primitive == "draft"]
    assert {step.model for step in drafts} == {"small"} and {step.model for step in own} == {"model"}
    assert sum(step.tokens for step in own) == receipt.tokens.forwarded()
    vain = sum(step.tokens for step in own if step.primitive == "verify")
    assert vain == receipt.tokens.draft_rejected > 0
    assert len(receipt.steps) < 12, "steps that alternate are added up"

    flops = receipt.compute.flops
    assert flops.total.value == sum(step.flops for step in receipt.steps)
    thinking = [step for step in receipt.steps if step.phase == "thinking"]
    assert flops.thinking.value == sum(step.flops for step in thinking)
    assert any(step.primitive == "draft" for step in thinking)
    assert guessed.backend.draft is not None
    cheapest = prefill_flops(guessed.backend.draft.shape, 1).total
    assert cheapest < prefill_flops(shape, 1).total
    tokens, spent = sum(step.tokens for step in drafts), sum(step.flops for step in drafts)
    assert tokens * prefill_flops(guessed.backend.draft.shape, 1, logits_rows=0).total < spent
    assert spent < tokens * prefill_flops(shape, 1, 60).total

    sampled = receipt.tokens.thinking + receipt.tokens.answer - 1
    decode = sum(guessed.seconds(primitive) for primitive in ("extend", "verify", "draft"))
    assert receipt.speed.decode_tok_s.value is not None
    assert receipt.speed.decode_tok_s.value <= sampled / decode
    assert receipt.time.decode.value is not None and receipt.time.decode.value >= decode


async def test_weights_are_read_once_for_all_that_one_forward_checks(model: Path) -> None:
    plain, guessed = await Told(model, "off")(), await Told(model, None)()
    moved = [told.answer.receipt.compute.bytes.value for told in (plain, guessed)]
    assert moved[0] is not None and moved[1] is not None
    assert moved[1] < moved[0] / 4


async def test_the_meter_counts_guesses_while_they_are_made(model: Path) -> None:
    guessed = await Told(model, None)()
    last = [event for event in guessed.events if isinstance(event, Metered)][-1]
    tokens = guessed.answer.receipt.tokens
    assert (last.drafts_accepted, last.drafts_rejected) == (tokens.draft_accepted, tokens.draft_rejected)


async def test_the_memory_of_a_draft_model_is_in_the_receipt(model: Path, small: Path) -> None:
    weights = {
        draft: (await Told(model, draft)()).answer.receipt.memory.weights.value
        for draft in ("off", "exit:1", str(small))
    }
    tensors = small / "model.safetensors"
    assert weights["off"] == weights["exit:1"]
    assert weights[str(small)] - weights["off"] == pytest.approx(tensors.stat().st_size, rel=0.05)
