"""Batched decoding of a checkpoint under test, and the bars that are measured with it."""

import json
from pathlib import Path

import pytest

from engine.tasks.evaluate import main
from engine.tasks.examinee import Examinee
from engine.tasks.registry import FAMILIES, problem_set

SOLVED = "What is 12 + 7 - 4 + 15 - 9 + 20 - 13 + 8 - 6 + 11 - 17 + 5?"


def test_rows_that_end_early_leave_the_others_as_they_would_be_alone(examinee: Examinee) -> None:
    questions = [p.question for p in problem_set(14, 3, families=["addition", "chain"])] + [SOLVED, "Hello"]
    together = examinee.answer_in_full(questions)
    assert len({len(reply.thought) for reply in together}) > 5, "rows end at different steps"
    for question, reply in zip(questions, together, strict=True):
        (alone,) = examinee.answer_in_full([question])
        assert (alone.thought, alone.answer) == (reply.thought, reply.answer)
        assert alone.mean_logprob == pytest.approx(reply.mean_logprob, abs=1e-4)


def test_the_likeliest_tokens_have_a_better_mean_log_probability_than_drawn_ones(examinee: Examinee) -> None:
    (greedy,) = examinee.answer_in_full([SOLVED])
    (drawn,) = examinee.sample([SOLVED], 8, temperature=3.0, seed=1)
    assert len({tuple(reply.thought) for reply in drawn}) > 4
    assert sum(reply.mean_logprob for reply in drawn) / 8 < greedy.mean_logprob <= 0


def test_samples_of_one_seed_are_the_same_and_of_another_are_not(examinee: Examinee) -> None:
    first, again, other = (examinee.sample([SOLVED], 4, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_thought_that_was_begun_is_gone_on_with(examinee: Examinee) -> None:
    begun = "12+7=19\n"
    (reply,) = examinee.answer_after([SOLVED], [begun])
    assert examinee.text_of(reply.thought).startswith(begun + "19-4=")


def test_the_bars_are_measured_as_one_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--bars", "--problems", str(2 * len(FAMILIES))]) == 0
    report = json.loads(capsys.readouterr().out)
    bars = {bar["name"].split(" (")[0]: bar for bar in report["bars"]}
    assert len(bars) == 11
    assert all(bar["reached"] == (bar["measured"] >= bar["least"]) for bar in bars.values())
    standard, hard = report["details"]["standard"]["accuracy"], report["details"]["hard"]
    assert list(standard) == ["off", "8", "16", "32", "full"]
    assert bars["full minus off"]["measured"] == standard["full"] - standard["off"]
    assert hard["oracle of 8"] >= max(hard["majority of 8"], hard["best of 8 by exact or step verifier"])
    assert report["details"]["planted"]["on, where it was found"] <= 1
    assert report["details"]["unseen length"]["by family"].keys() <= FAMILIES.keys()


def test_too_few_problems_for_the_bars_are_refused(folder: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(folder), "--bars", "--problems", "3"])
