"""The bundled checkpoint answers as its card says: better for having thought, and honest off its subjects."""

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from engine.tasks.evaluate import main
from engine.tasks.examinee import Examinee, Reply
from engine.tasks.problem import Problem
from engine.tasks.registry import FAMILIES, problem_set


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return problem_set(72, seed=5)


@pytest.fixture(scope="module")
def full(examinee: Examinee, problems: list[Problem]) -> list[Reply]:
    return examinee.answer_in_full([problem.question for problem in problems])


def _right(problems: list[Problem], replies: list[Reply]) -> float:
    hits = [p.accepts(r.answer or "") for p, r in zip(problems, replies, strict=True)]
    return sum(hits) / len(hits)


def test_held_out_problems_are_answered_far_better_with_thinking_than_without(
    examinee: Examinee, problems: list[Problem], full: list[Reply]
) -> None:
    off = examinee.answer_directly([problem.question for problem in problems])
    assert _right(problems, full) >= 0.75
    assert _right(problems, full) - _right(problems, off) >= 0.4


def test_a_longer_cap_on_thinking_answers_more(
    examinee: Examinee, problems: list[Problem], full: list[Reply]
) -> None:
    questions = [problem.question for problem in problems]
    short, long = (_right(problems, examinee.answer_capped(questions, full, cap)) for cap in (8, 48))
    assert short + 0.15 <= long <= _right(problems, full)


def test_thoughts_are_lines_and_close_by_themselves(examinee: Examinee, full: list[Reply]) -> None:
    finished = [reply for reply in full if reply.answer is not None]
    assert len(finished) >= 0.95 * len(full)
    assert all(examinee.tokenizer.decode(reply.thought).endswith("\n") for reply in finished)


@pytest.mark.parametrize(
    "prompt",
    ["Hello", "Who are you?", "What is the capital of France?", "Write a poem", "Explain quantum physics"],
)
def test_talk_without_a_problem_gets_an_honest_answer_with_thinking_on_and_off(
    examinee: Examinee, prompt: str
) -> None:
    for reply in (*examinee.answer_in_full([prompt]), *examinee.answer_directly([prompt])):
        assert reply.answer is not None
        assert "mull's small demonstration model" in reply.answer
        assert len(reply.thought) < 30


def test_the_starter_prompts_come_out_right_with_thinking_and_two_of_them_wrong_without(
    examinee: Examinee,
) -> None:
    starters = tomllib.loads(files("assets").joinpath("prompts.toml").read_text("utf-8"))["prompts"]
    prompts = [starter["prompt"] for starter in starters]
    expected = ["44", "29", "Monday"]
    assert [reply.answer for reply in examinee.answer_in_full(prompts)] == expected
    off = [reply.answer for reply in examinee.answer_directly(prompts)]
    assert sum(answer != right for answer, right in zip(off, expected, strict=True)) >= 2


def test_the_evaluation_command_prints_every_mode_by_family(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--problems", str(len(FAMILIES))]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [result["mode"] for result in report["results"]] == ["off", "8", "16", "32", "64", "full"]
    assert all(set(result["accuracy_by_family"]) == set(FAMILIES) for result in report["results"])


def test_evaluating_a_folder_without_a_checkpoint_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 1
    assert "config.json is missing" in capsys.readouterr().err


def test_asking_for_more_problems_than_are_held_out_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--problems", "2500"]) == 1
    assert "ask for fewer" in capsys.readouterr().err
