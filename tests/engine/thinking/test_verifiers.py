"""Verifiers: who chooses among several answers, what it costs, and what happens where one cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import AnswerType, ModelSpec, Sampling, Verifier
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking import verifiers
from engine.thinking.run import UsageError
from engine.thinking.verifiers.tests import run_tests

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>"))
X, EQUALS, ONE, TWO = TOKENIZER.encode("x=12")
HARD = "s = 1, u = 18, p = 13, g = p + 7, e = g + 7, c = e - 11, y = c + 2, h = y - 14. Find h."
COLD = Sampling(temperature=0.01)


@pytest.fixture(scope="module")
def tiny() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(model="tiny"))
    yield backend
    backend.close()


@pytest.fixture
def coder(tmp_path: Path) -> Iterator[LocalBackend]:
    """Whatever it is asked, it thinks 2 and writes x=1."""
    script = {THINK: TWO, TWO: END, END: X, X: EQUALS, EQUALS: ONE, ONE: EOS}
    folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size)
    backend = open_backend(ModelSpec(model=str(folder)))
    yield backend
    backend.close()


def rule_of(done: Run) -> str:
    assert done.answer.decision is not None and done.answer.answer
    return done.answer.decision.rule


@pytest.mark.parametrize("name", ["judge", "consistency"])
async def test_a_model_that_is_asked_is_paid_for_as_scoring(tiny: LocalBackend, name: str) -> None:
    plain = await Run(HARD)(tiny, method="best:4", verifier=Verifier("confidence"))
    done = await Run(HARD)(tiny, method="best:4", verifier=Verifier(name))  # type: ignore[arg-type]
    assert [one.answer for one in done.answer.candidates] == [one.answer for one in plain.answer.candidates]
    tokens, steps = done.answer.receipt.tokens, done.answer.receipt.steps
    assert tokens.forwarded() == done.forwarded
    if len({one.answer for one in done.answer.candidates}) == 1:
        pytest.fail("a question on which samples agree proves nothing")
    assert name in rule_of(done) and tokens.score > 0 == plain.answer.receipt.tokens.score
    assert tokens.prefilled == plain.answer.receipt.tokens.prefilled or tokens.cached
    assert sum(step.tokens for step in steps if step.candidate == "judge") == tokens.score
    flops = done.answer.receipt.compute.flops
    assert flops.total.value == sum(step.flops for step in steps)
    tiny.runner.pool.check_integrity([])


async def test_a_judge_who_prefers_whatever_comes_first_leaves_it_to_confidence(tmp_path: Path) -> None:
    """Its prompts all end alike, so this model gives the same verdict in both orders."""
    after = {THINK: TWO, TWO: END, END: ONE, ONE: EOS}
    folder = scripted_checkpoint.write(tmp_path / "model", TINY, after, TOKENIZER.size)
    backend = open_backend(ModelSpec(model=str(folder)))
    done = await Run()(
        backend,
        method="best:3",
        sampling=Sampling(temperature=3.0),
        max_tokens=6,
        verifier=Verifier("judge"),
        think=8,
    )
    by_confidence = await Run()(
        backend,
        method="best:3",
        sampling=Sampling(temperature=3.0),
        max_tokens=6,
        verifier=Verifier("confidence"),
        think=8,
    )
    assert "pairs left to confidence" in rule_of(done)
    assert done.answer.answer == by_confidence.answer.answer
    backend.close()


async def test_free_text_is_ranked_by_self_certainty_and_asked_about_once(tiny: LocalBackend) -> None:
    done = await Run(HARD)(tiny, method="best:4", answer_type="text")
    rule, decision = rule_of(done), done.answer.decision
    assert decision is not None
    alike = any(len(vote.candidates) > 1 for vote in decision.votes)
    assert ("self-certainty" in rule) if alike else ("consistency" in rule)
    assert done.answer.receipt.tokens.forwarded() == done.forwarded


async def test_code_is_chosen_by_its_tests(coder: LocalBackend) -> None:
    for expected, passed in ((1, "pass 1 of 1"), (2, "pass 0 of 1")):
        tests = Verifier("tests", f"def test_x():\n    assert x == {expected}\n")
        done = await Run()(coder, method="best:3", sampling=COLD, verifier=tests, answer_type="code")
        assert done.answer.answer == "x=1" and passed in rule_of(done)


async def test_where_code_cannot_be_shut_in_confidence_chooses(
    coder: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    tests = Verifier("tests", "assert x == 1")
    done = await Run()(coder, method="best:3", sampling=COLD, verifier=tests, answer_type="code")
    assert done.answer.answer == "x=1"
    assert rule_of(done).startswith("confidence, for tests could not judge (code is not run: ")


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError("no"), ZeroDivisionError("no")])
async def test_a_verifier_that_fails_gives_way_to_confidence(
    tiny: LocalBackend, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(verifiers, "by_judge", fails)
    done = await Run(HARD)(tiny, method="best:3", verifier=Verifier("judge"))
    assert "judge could not judge" in rule_of(done) and "no" in rule_of(done)


@pytest.mark.parametrize(
    ("tests", "why"), [("def", "not Python"), ("", "no tests"), ("def helper(): pass", "no tests")]
)
async def test_tests_that_are_none_are_refused_before_anything_runs(
    tiny: LocalBackend, tests: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        await Run(HARD)(tiny, method="best:3", verifier=Verifier("tests", tests))


@pytest.mark.parametrize("kind", ["number", "expression", "json", "code", "choice", "text"])
async def test_a_vote_on_answers_of_a_declared_type_ends_with_an_answer(
    tiny: LocalBackend, kind: AnswerType
) -> None:
    done = await Run(HARD)(tiny, method="vote:5", answer_type=kind)
    assert done.answer.answer and done.answer.receipt.tokens.forwarded() == done.forwarded


F = "```python\ndef f(n):\n    {}\n```"
TESTED: list[tuple[str, str, tuple[int, int], str]] = [
    (F.format("return n + 1"), "assert f(1) == 2\nassert f(2) == 3", (2, 2), ""),
    (F.format("return 2 * n"), "assert f(1) == 2\nassert f(2) == 3", (1, 2), "f(2) is 4"),
    (F.format("return n"), "from solution import f\ndef test_one():\n    assert f(1) == 1", (1, 1), ""),
    (F.format("raise KeyError"), "def test_one():\n    f(1)", (0, 1), "KeyError"),
    (F.format("while True: pass"), "assert f(1) == 2", (0, 0), "did not end within"),
    (F.format("raise SystemExit"), "assert f(1) == 2", (0, 1), "SystemExit"),
    (F.format("import os; os._exit(0)"), "assert f(1) == 2", (0, 0), "ended before"),
    ("```python\ndef f(n:\n```", "assert f(1) == 2", (0, 1), "SyntaxError"),
    (F.format("return n"), "def check(g):\n    assert g(3) == 3\ncheck(f)", (1, 1), ""),
    (F.format("return n"), "import nothing_known\nassert f(1) == 1", (1, 2), "nothing_known"),
    (
        F.format("return n"),
        "from unittest import *\nclass T(TestCase):\n  def test_a(self):\n    self.assertEqual(f(1), 2)",
        (0, 1),
        "1 != 2",
    ),
    ("I cannot.", "assert f(1) == 2", (0, 0), "no code"),
]


@pytest.mark.parametrize(("reply", "tests", "found", "report"), TESTED)
async def test_tests_say_what_passed_and_what_went_wrong(
    reply: str, tests: str, found: tuple[int, int], report: str
) -> None:
    result = await run_tests(reply, tests)
    assert (result.passed, result.total) == found and report in result.report, result
