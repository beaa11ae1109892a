"""The file in which answers are kept: what a reader finds after a kill, and who may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bench.results import AnswerLine, opened
from app.errors import CommandError


def line(problem: str, answer: str = "4") -> AnswerLine:
    return AnswerLine(cell="c", problem=problem, sample=0, answer=answer, finish="stop")


def test_half_a_line_is_cut_off_and_what_follows_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    with opened(path) as results:
        results.add(line("one"))
        results.add(line("two"))
    whole = path.read_bytes()
    for cut in range(1, len(whole) - whole.index(b"\n") - 1):
        path.write_bytes(whole[:-cut])
        with opened(path) as results:
            assert [one.problem for one in results.answers.values()] == ["one"]
            results.add(line("three"))
        with opened(path) as results:
            assert [one.problem for one in results.answers.values()] == ["one", "three"]


def test_of_two_answers_to_the_same_the_later_counts(tmp_path: Path) -> None:
    with opened(tmp_path / "r") as results:
        results.add(line("one", "4"))
        results.add(line("one", "5"))
    with opened(tmp_path / "r") as results:
        assert [one.answer for one in results.answers.values()] == ["5"]


def test_two_benches_do_not_write_to_one_file(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "r"),
        pytest.raises(CommandError, match="another bench is writing"),
        opened(tmp_path / "r"),
    ):
        pass


def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    for content in (b"mine\n", b"mine", b'{"line": "shopping"}\n'):
        (tmp_path / "r").write_bytes(content)
        with pytest.raises(CommandError, match="is no file of mull bench"), opened(tmp_path / "r"):
            pass
        assert (tmp_path / "r").read_bytes() == content
