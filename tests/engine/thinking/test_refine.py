"""refine: a wrong line is doubted as soon as it stands there, a right one never, and the budget holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import ModelSpec
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking.methods.refine import WAIT

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS, NEWLINE = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>", "\n"))
ONE, PLUS, TWO, EQUALS, THREE, FOUR, FIVE = TOKENIZER.encode("1+2=345")
WAIT_IDS = TOKENIZER.encode(WAIT)

Scripted = Callable[[Mapping[int, int]], LocalBackend]


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    made: list[LocalBackend] = []

    def make(script: Mapping[int, int]) -> LocalBackend:
        folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size)
        made.append(open_backend(ModelSpec(model=str(folder))))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def sum_of(result: int) -> dict[int, int]:
    """Writes 1+2=`result` as a line, and begins anew."""
    return {THINK: ONE, ONE: PLUS, PLUS: TWO, TWO: EQUALS, EQUALS: result, result: NEWLINE, NEWLINE: ONE}


async def test_a_wrong_line_is_doubted_at_once_and_no_more_often_than_was_asked(scripted: Scripted) -> None:
    done = await Run()(scripted(sum_of(FOUR)), think=64, method="refine:2")
    lines = done.answer.thinking.split("\n")
    assert lines[:5] == ["1+2=4", WAIT.strip(), "1+2=4", WAIT.strip(), "1+2=4"]
    assert lines.count(WAIT.strip()) == 2 and len(lines) > 6
    tokens = done.answer.receipt.tokens
    assert tokens.thinking + tokens.forced <= 64 and tokens.forced >= 2 * len(WAIT_IDS)
    assert tokens.forwarded() == done.forwarded
    assert [delta.text for delta in done.texts if delta.forced][:2] == [WAIT, WAIT]


async def test_what_is_right_is_thought_as_without_a_checker(scripted: Scripted) -> None:
    backend = scripted(sum_of(THREE))
    plain = await Run()(backend, think=50, method="cot")
    checked = await Run()(backend, think=50, method="refine:3")
    assert checked.answer.thinking == plain.answer.thinking and WAIT.strip() not in checked.answer.thinking
    assert checked.answer.finish == plain.answer.finish
    before, after = plain.answer.receipt.tokens, checked.answer.receipt.tokens
    assert (after.thinking, after.forced, after.answer) == (before.thinking, before.forced, before.answer)


async def test_the_words_are_put_in_only_where_the_budget_has_room_for_them(scripted: Scripted) -> None:
    for think in range(9, 30):
        backend = scripted(sum_of(FOUR))
        done = await Run()(backend, think=think, method="refine:9")
        tokens = done.answer.receipt.tokens
        assert tokens.thinking + tokens.forced <= think
        assert tokens.forwarded() == done.forwarded


async def test_a_sound_thought_of_the_bundled_model_stays_as_it_is() -> None:
    backend = open_backend(ModelSpec(model="tiny"))
    for question in ("What is 4748 + 2674?", "What is 12 + 7 - 4 + 15 - 9?"):
        plain = await Run(question)(backend, method="cot")
        checked = await Run(question)(backend, method="refine")
        assert checked.answer.method == "refine:4"
        assert checked.answer.thinking == plain.answer.thinking
    backend.close()
