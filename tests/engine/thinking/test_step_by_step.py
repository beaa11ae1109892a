"""A model that marks no thoughts is led into thinking in words, and from them to its answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run
from no_format import tokenizer_without_format

from engine.backend import Backend
from engine.load.tokenizer import HubTokenizer
from engine.protocol import ModelSpec, Notice
from engine.setup import open_backend
from engine.thinking.families import STEP_BY_STEP
from engine.thinking.formats import resolve

OPENING = "Let's think step by step."
LEAD = "Therefore, the answer is"


@pytest.fixture
def tokenizer(tmp_path: Path) -> HubTokenizer:
    return tokenizer_without_format(tmp_path / "tokenizer")


def model(tmp_path: Path, tokenizer: HubTokenizer, ends: bool) -> Path:
    """It thinks 1212..., to the end of its turn or without end, and answers 3 to the phrase."""
    style = resolve(tokenizer, STEP_BY_STEP)
    assert style is not None
    thought, more, said = tokenizer.encode("123")
    [eos, *_] = tokenizer.eos_ids
    script = {thought: more, more: eos if ends else thought, said: eos}
    script |= {style.opening[-1]: thought, style.forced_end[-1]: said}
    return scripted_checkpoint.write(tmp_path / "model", tmp_path / "tokenizer", script, tokenizer.size)


@pytest.fixture
def open_(tmp_path: Path, tokenizer: HubTokenizer) -> Iterator[object]:
    opened: list[Backend] = []

    def open_it(ends: bool, step_by_step: bool = True) -> Backend:
        folder = model(tmp_path, tokenizer, ends)
        opened.append(open_backend(ModelSpec(model=str(folder), draft="off", step_by_step=step_by_step)))
        return opened[-1]

    yield open_it
    for backend in opened:
        backend.close()


async def test_a_thought_that_ends_its_turn_is_led_to_an_answer(open_) -> None:  # type: ignore[no-untyped-def]
    done = await Run()(open_(ends=True), think=60)
    answer, spent = done.answer, done.answer.receipt.tokens
    assert answer.thinking == f"{OPENING}\n12\n\n{LEAD}"
    assert answer.answer == "3" and answer.finish == "stop"
    assert spent.forwarded() == done.forwarded
    assert spent.thinking + spent.forced <= 60


async def test_a_thought_without_end_is_cut_by_the_budget_and_answered(open_) -> None:  # type: ignore[no-untyped-def]
    done = await Run()(open_(ends=False), think=60)
    answer, spent = done.answer, done.answer.receipt.tokens
    assert answer.thinking.startswith(f"{OPENING}\n1212") and answer.thinking.endswith(LEAD)
    assert answer.answer == "3" and answer.finish == "budget"
    assert spent.thinking + spent.forced <= 60
    assert spent.forwarded() == done.forwarded


async def test_a_minimum_has_it_go_on_where_it_would_have_ended(open_) -> None:  # type: ignore[no-untyped-def]
    done = await Run()(open_(ends=True), think=100, least_thinking=40)
    assert "Wait" in done.answer.thinking
    assert done.answer.answer == "3"


async def test_without_being_asked_it_answers_directly_and_says_what_could_be_asked(open_) -> None:  # type: ignore[no-untyped-def]
    done = await Run()(open_(ends=True, step_by_step=False), think=60, max_tokens=2)
    told = [event.text for event in done.events if isinstance(event, Notice)]
    assert any("--step-by-step" in text for text in told)
    assert done.answer.thinking == ""


async def test_with_thinking_off_it_is_led_nowhere(open_) -> None:  # type: ignore[no-untyped-def]
    done = await Run()(open_(ends=True), think="off", max_tokens=2)
    assert done.answer.thinking == "" and done.answer.receipt.tokens.forced == 0


def test_the_backend_says_that_it_thinks(open_) -> None:  # type: ignore[no-untyped-def]
    assert open_(ends=True).info.thinking_format == STEP_BY_STEP


def test_no_template_is_taken_for_it(tokenizer: HubTokenizer) -> None:
    assert resolve(tokenizer) is None
