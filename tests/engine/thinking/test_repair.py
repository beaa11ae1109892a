"""refine of code: tests are run, what fails goes back to the model, and the best version is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Limit, ModelSpec, Verifier
from engine.runtime.local import LocalBackend
from engine.setup import open_backend

pytestmark = pytest.mark.usefixtures("shut_in")
TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>"))
X, EQUALS, ONE, TWO = TOKENIZER.encode("x=12")


@pytest.fixture
def coder(tmp_path: Path) -> Iterator[LocalBackend]:
    """Whatever it is asked, it thinks 2 and writes x=1."""
    script = {THINK: TWO, TWO: END, END: X, X: EQUALS, EQUALS: ONE, ONE: EOS}
    folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size)
    backend = open_backend(ModelSpec(model=str(folder)))
    yield backend
    backend.close()


def check(value: int) -> Verifier:
    return Verifier("tests", f"assert x == {value}")


async def test_code_that_passes_is_left_as_it_is(coder: LocalBackend) -> None:
    done = await Run()(coder, method="refine:3", verifier=check(1))
    assert done.answer.answer == "x=1" and len(done.answer.candidates) == 1
    assert done.answer.decision is not None
    assert done.answer.decision.rule == "tests: 1 of 1 pass after 0 of 3 rounds"
    assert done.answer.receipt.tokens.forwarded() == done.forwarded


async def test_what_fails_is_told_and_tried_again_as_often_as_was_asked(
    coder: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    prefill = coder.prefill

    async def heard(ids: list[int], *rest: object) -> object:
        prompts.append(TOKENIZER.decode(ids))
        return await prefill(ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(coder, "prefill", heard)
    done = await Run()(coder, method="refine:2", verifier=check(2))
    assert done.answer.answer == "x=1" and len(done.answer.candidates) == 3
    assert done.answer.decision is not None
    assert done.answer.decision.rule == "tests: 0 of 1 pass after 2 of 2 rounds"
    assert [text.count("x is 1") for text in prompts] == [0, 1, 2]
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    coder.runner.pool.check_integrity([])


async def test_the_budget_ends_the_rounds(coder: LocalBackend) -> None:
    done = await Run()(coder, method="refine:9", verifier=check(2), budget=(Limit("tok", 150),))
    assert done.answer.answer and len(done.answer.candidates) < 10
    assert done.answer.receipt.tokens.forwarded() == done.forwarded <= 150
    assert done.answer.decision is not None and "no room for another round" in done.answer.decision.rule
