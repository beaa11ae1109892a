"""exit: a thought ends where its answer is settled, goes on as cot's where it is not; probes are charged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import AnswerNow, Cancel, Control, Limit, ModelSpec, Sampling
from engine.runtime.local import LocalBackend
from engine.setup import open_backend

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS, NEWLINE = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>", "\n"))
AROUND = 5
"""Tokens that open a thought and force its end."""
ONE, TWO, STOP, WAIT = (TOKENIZER.encode(text)[0] for text in ("1", "2", ".", "Wait"))

SENTENCES = {THINK: ONE, ONE: STOP, STOP: ONE}
"""Thinks `1.1.1.` for ever."""
TURNS = {THINK: ONE, ONE: STOP, STOP: WAIT, WAIT: ONE}
"""Thinks `1.Wait1.Wait1.` for ever."""
SAYS_TWO = {NEWLINE: TWO, TWO: EOS}
"""Wherever its thought ends."""
SAYS_NO_END = {NEWLINE: TWO, TWO: TWO}

Scripted = Callable[[Mapping[int, int]], LocalBackend]


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    made: list[LocalBackend] = []

    def make(script: Mapping[int, int]) -> LocalBackend:
        # embeddings far from each other: it is sure of what it says
        folder = scripted_checkpoint.write(
            tmp_path / f"{len(made)}", TINY, script, TOKENIZER.size, initializer_range=0.2
        )
        made.append(open_backend(ModelSpec(model=str(folder))))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def nothing_is_left(backend: LocalBackend) -> None:
    backend.runner.pool.check_integrity([])


@pytest.mark.parametrize("thought", [SENTENCES, TURNS], ids=["sentences", "turns"])
async def test_a_thought_ends_where_its_answer_is_settled(
    scripted: Scripted, thought: dict[int, int]
) -> None:
    backend = scripted(thought | SAYS_TWO)
    done = await Run()(backend, think=800, method="exit")
    answer, tokens = done.answer, done.answer.receipt.tokens
    assert (answer.answer, answer.finish) == ("2", "stop")
    assert answer.thinking.endswith(".") and tokens.thinking < 400
    thought = tokens.thinking + tokens.forced - AROUND
    assert answer.decision is not None and f"after {thought} tokens" in answer.decision.rule
    assert answer.decision.votes[0].answer == "2"
    assert tokens.probe > 0 and tokens.forwarded() == done.forwarded
    flops = answer.receipt.compute.flops
    assert flops.total.value == sum(step.flops for step in answer.receipt.steps)
    nothing_is_left(backend)


async def test_before_a_turn_it_looks_sooner(scripted: Scripted) -> None:
    plain = await Run()(scripted(SENTENCES | SAYS_TWO), think=800, method="exit")
    turning = await Run()(scripted(TURNS | SAYS_TWO), think=800, method="exit")
    assert 2 * turning.answer.receipt.tokens.thinking < plain.answer.receipt.tokens.thinking


@pytest.mark.parametrize("thought", [SENTENCES, TURNS], ids=["sentences", "turns"])
async def test_where_nothing_settles_it_thinks_as_cot_does(
    scripted: Scripted, thought: dict[int, int]
) -> None:
    backend = scripted(thought | SAYS_NO_END)
    done = [await Run()(backend, think=600, method=name, max_tokens=5) for name in ("cot", "exit")]
    full, early = (run.answer for run in done)
    assert (early.thinking, early.answer, early.finish) == (full.thinking, full.answer, full.finish)
    assert early.decision is None
    before, after = full.receipt.tokens, early.receipt.tokens
    assert after.thinking + after.forced == before.thinking + before.forced
    assert 0 < after.probe <= (after.thinking + after.forced) / 2 and after.forwarded() == done[1].forwarded
    assert "".join(delta.text for delta in done[1].texts) == done[1].text("thinking") + done[1].text("answer")


@pytest.mark.parametrize("control", [AnswerNow(), Cancel()], ids=["answer now", "cancel"])
async def test_it_can_be_hurried_and_stopped_at_any_time(scripted: Scripted, control: Control) -> None:
    backend = scripted(TURNS | SAYS_NO_END)
    for at in (1, 2, 21, 22, 60):
        run = Run()
        run.controls[at] = control
        done = await run(backend, think=400, method="exit", max_tokens=5)
        assert done.answer.thinking.startswith("1") and len(done.answer.thinking) < 800
        assert done.answer.finish == ("cancelled" if isinstance(control, Cancel) else "length")
        assert bool(done.answer.answer) == isinstance(control, AnswerNow)
        assert done.answer.receipt.tokens.forwarded() == done.forwarded
        nothing_is_left(backend)


async def test_a_minimum_of_thought_comes_before_any_ending(scripted: Scripted) -> None:
    done = await Run()(scripted(TURNS | SAYS_TWO), think=300, least_thinking=120, method="exit")
    tokens = done.answer.receipt.tokens
    assert 120 <= tokens.thinking + tokens.forced < 300


async def test_a_budget_of_tokens_holds_with_its_probes(scripted: Scripted) -> None:
    backend = scripted(TURNS | SAYS_NO_END)
    for amount in (120, 160, 240):
        done = await Run()(backend, method="exit", budget=(Limit("tok", amount),))
        tokens = done.answer.receipt.tokens
        assert tokens.forwarded() == done.forwarded <= amount
        assert tokens.probe > 0 and done.answer.answer


async def test_without_memory_for_probes_it_thinks_on(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = scripted(TURNS | SAYS_TWO)

    async def no_memory(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(backend, "probe", no_memory)
    done = await Run()(backend, think=100, method="exit")
    assert done.answer.answer == "2" and done.answer.finish == "budget"
    assert done.answer.receipt.tokens.probe == 0


async def test_a_model_without_thinking_answers_directly(scripted: Scripted, tmp_path: Path) -> None:
    from random_checkpoint import save_checkpoint

    backend = open_backend(ModelSpec(model=str(save_checkpoint(tmp_path / "plain"))))
    done = await Run()(backend, method="exit", max_tokens=4, sampling=Sampling(temperature=0))
    assert done.answer.thinking == "" and done.answer.receipt.tokens.probe == 0
    backend.close()
