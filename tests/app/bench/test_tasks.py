"""The problems of a bench: families, files of the user's own, and splits that never mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bench.task_lines import BadLine, TaskLine, read_line
from app.bench.tasks import bundled, from_file
from app.errors import CommandError


def line(**fields: object) -> TaskLine:
    return read_line(json.dumps(fields).encode())


def test_lines_of_gsm8k_are_taken_as_they_are() -> None:
    task = line(question="How much?", answer="2*9=<<2*9=18>>18\n#### 1,018")
    assert (task.prompt, task.answers, task.kind) == ("How much?", ("1,018",), "number")
    assert task.accepts("It is 1018 dollars.") and not task.accepts("18")


def test_lines_of_math_have_their_answer_in_a_box() -> None:
    task = line(problem="Find x.", solution="So $x=\\boxed{\\frac{3}{4}}$.", level="Level 5", type="Algebra")
    assert (task.answers, task.kind, task.family) == (("\\frac{3}{4}",), "math", "Algebra")
    assert task.accepts("\\boxed{0.75}")


@pytest.mark.parametrize("answer", [2, "C", "Rome"])
def test_lines_of_mmlu_ask_for_a_letter(answer: object) -> None:
    task = line(
        question="Capital of Italy?", choices=["Oslo", "Bern", "Rome", "Bonn"], answer=answer, subject="geo"
    )
    assert (
        task.prompt
        == "Capital of Italy?\n\nA. Oslo\nB. Bern\nC. Rome\nD. Bonn\n\nGive the letter of the right answer."
    )
    assert task.accepts("C. Rome") and not task.accepts("B") and task.family == "geo"


def test_our_own_lines_say_prompt_answer_and_type() -> None:
    assert line(prompt="1+1?", answer=2).kind == "number"
    assert line(prompt="1+1?", answer="two").kind == "text"
    assert line(prompt="Say it.", answer=["yes", "aye"], type="exact").accepts("aye")
    assert line(prompt="A or B?", answer="(b)", type="choice").accepts("B")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no JSON object"),
        ("{}", "has no question"),
        ('{"prompt": ""}', "has a prompt that is no text"),
        ('{"prompt": "a"}', "has no answer"),
        ('{"prompt": "a", "answer": null}', "has the answer None"),
        ('{"prompt": "a", "answer": " "}', "has an empty answer"),
        ('{"prompt": "a", "answer": "b", "type": "essay"}', "has the type 'essay'"),
        ('{"prompt": "a", "answer": "many", "type": "number"}', "has the type number, but"),
        ('{"question": "a", "answer": 4, "choices": ["x", "y"]}', "has the answer 4"),
        ('{"question": "a", "answer": 0, "choices": "xy"}', "has choices that are no list"),
        ('{"problem": "a", "solution": "it is 4"}', "without \\boxed{}"),
        ('{"prompt": "\\ud800", "answer": "b"}', "half a character"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_line_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(BadLine) as error:
        read_line(text.encode())
    assert words in str(error.value)


def test_a_file_with_a_bad_line_is_refused_by_the_lines_number(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_bytes(b'{"prompt": "a", "answer": "b"}\n\n\xff\n')
    with pytest.raises(CommandError) as error:
        from_file(file, "all", None)
    assert str(error.value) == "own.jsonl, line 3: is not UTF-8; save the file as UTF-8"


def test_no_problem_of_the_calibration_split_is_tested(tmp_path: Path) -> None:
    tests = {item.digest for item in bundled("addition,coin", "test", 40, 0).items}
    held = {item.digest for item in bundled("addition,coin", "calibration", 20, 0).items}
    assert len(tests) == 40 and len(held) == 20 and not tests & held
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": n}) + "\n" for n in range(100)) * 2)
    parts = [from_file(file, split, None) for split in ("test", "calibration", "all")]  # type: ignore[arg-type]
    tests, held, every = ({item.digest for item in part.items} for part in parts)
    assert tests | held == every and not tests & held and len(every) == 100 and 10 < len(held) < 40
    assert parts[2].notes == ("100 repeated problems are left out",)


def test_a_longer_set_holds_the_shorter_so_that_its_answers_serve_again() -> None:
    short, long = (bundled("all", "test", count, 5) for count in (30, 60))
    assert {item.digest for item in short.items} <= {item.digest for item in long.items}
    families = [item.family for item in long.items]
    assert (
        len(set(families)) > 5
        and max(map(families.count, families)) - min(map(families.count, families)) <= 1
    )
    assert short.digest != long.digest == bundled("bundled", "test", 60, 5).digest


def test_tasks_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"there are no tasks 'additoin'; .*addition"):
        bundled("additoin", "test", 4, 0)
    with pytest.raises(CommandError, match=r"own\.jsonl: no such file"):
        from_file(tmp_path / "own.jsonl", "all", None)
