"""A journal that was damaged, cut short or written by somebody else is read as far as it goes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import CommandError
from app.sessions import session
from app.sessions.journal import new_id
from app.sessions.recorder import Recorder
from app.sessions.store import Store
from engine.protocol import Delta, ModelSpec

NOW = "2026-07-31T12:00:00Z"
HEADER = {"line": "header", "schema": "mull.session/1", "id": "s", "created": NOW, "mull": "0.1.0"}


def turn_line(turn_id: str, parent: str | None, content: str = "hello") -> dict[str, object]:
    return {
        "line": "turn", "id": turn_id, "parent": parent, "role": "user", "created": NOW, "content": content,
    }  # fmt: skip


def written(directory: Path, *lines: object, tail: str = "") -> Path:
    path = directory / "s.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + tail)
    return path


def test_a_torn_last_line_is_left_out_and_the_session_goes_on_after_it() -> None:
    recorder = Recorder.create()
    recorder.user_turn("hello")
    turn = recorder.answer_turn(recorder.request(ModelSpec()))
    recorder.event(turn, Delta(candidate="0", phase="answer", text="one", tokens=1))
    recorder.event(turn, Delta(candidate="0", phase="answer", text=" two", tokens=1))
    recorder.close()
    (path,) = Store().directory.iterdir()
    path.write_bytes(path.read_bytes()[:-20])

    torn = session.read(path)
    assert (torn.tree["t2"].content, torn.tree["t2"].status, torn.damaged) == ("one", "interrupted", 0)
    resumed = Recorder.resume("last")
    resumed.user_turn("and then?")
    assert [turn.content for turn in session.read(path).tree] == ["hello", "one", "and then?"]


def test_every_cut_of_a_journal_after_its_header_can_be_read() -> None:
    recorder = Recorder.create()
    recorder.user_turn("héllo")
    turn = recorder.answer_turn(recorder.request(ModelSpec()))
    recorder.event(turn, Delta(candidate="0", phase="answer", text="ünö", tokens=1))
    recorder.close()
    (path,) = Store().directory.iterdir()
    whole = path.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:length])
        assert session.read(path).damaged == 0


def test_unknown_lines_and_unknown_events_are_ignored(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        HEADER,
        turn_line("t1", None),
        {"line": "bookmark", "turn": "t1"},
        {"line": "event", "turn": "t1", "at": 0.5, "event": {"type": "telepathy", "text": "?"}},
        {**turn_line("t2", "t1"), "mood": "glad"},
    )
    found = session.read(path)
    assert [turn.id for turn in found.tree] == ["t1", "t2"]
    assert found.damaged == 0


def test_damaged_lines_in_the_middle_are_left_out_and_counted(tmp_path: Path) -> None:
    nested = '{"line":"turn","id":"x","deep":' + "[" * 50_000 + "]" * 50_000 + "}\n"
    path = written(tmp_path, HEADER, turn_line("t1", None))
    with path.open("ab") as file:
        file.write(b"not json\n\xff\xfe\x00\n" + nested.encode() + json.dumps(turn_line("t2", "t1")).encode())
    found = session.read(path)
    assert [turn.id for turn in found.tree] == ["t1", "t2"]
    assert found.damaged == 3


@pytest.mark.parametrize(
    ("damaged", "next_id"),
    [
        ('"id":"t2"', "t4"),  # a sibling in the middle
        ('"id":"t3"', "t4"),  # the last turn, whose events name it
        ("turn", "t4"),  # the last turn, which nothing names any more
        ('"id":"t1"', "t4"),  # the first, so that what follows has no parent
    ],
)
def test_a_session_with_a_damaged_turn_goes_on_under_numbers_of_its_own(damaged: str, next_id: str) -> None:
    recorder = Recorder.create()
    recorder.user_turn("hello")
    for _ in range(2):
        recorder.go("t1")
        turn = recorder.answer_turn(recorder.request(ModelSpec()))
        if damaged != "turn":
            recorder.event(turn, Delta(candidate="0", phase="answer", text="hi", tokens=1))
    recorder.close()
    (path,) = Store().directory.iterdir()
    lines = path.read_text().splitlines(keepends=True)
    at = max(n for n, line in enumerate(lines) if '"line":"turn"' in line and damaged in line)
    lines[at] = "x" * (len(lines[at]) - 1) + "\n"
    path.write_text("".join(lines))

    resumed = Recorder.resume("last")
    assert resumed.user_turn("and then?").id == next_id
    turn = resumed.answer_turn(resumed.request(ModelSpec()))
    resumed.event(turn, Delta(candidate="0", phase="answer", text="more", tokens=1))
    resumed.close()
    again = session.read(path)
    assert [turn.content for turn in again.tree.path("t5")][-2:] == ["and then?", "more"]


def test_double_ids_orphans_and_cycles_do_not_enter_the_tree(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        HEADER,
        turn_line("t1", None),
        turn_line("t1", None, "again"),
        turn_line("t2", "t3"),
        turn_line("t3", "t2"),
        turn_line("t4", "t4"),
        turn_line("t5", "t1"),
    )
    found = session.read(path)
    assert [(turn.id, turn.content) for turn in found.tree.path("t5")] == [("t1", "hello"), ("t5", "hello")]
    assert found.damaged == 4


def test_a_newer_schema_is_read_but_not_continued() -> None:
    store = Store()
    store.directory.mkdir(parents=True)
    written(store.directory, {**HEADER, "schema": "mull.session/2", "mull": "9.0"}, turn_line("t1", None))
    assert store.read("s").tree["t1"].content == "hello"
    with pytest.raises(CommandError, match=r"of mull 9\.0, a newer one: .* mull sessions show s"):
        Recorder.resume("s")
    store.open("s").close()  # the refused session is not left locked


@pytest.mark.parametrize(
    "content", ["", "hello\n", '{"line":"turn"}\n', '{"schema":"other/1","line":"header"}\n']
)
def test_a_file_that_is_no_session_is_one_clear_line_and_not_listed(content: str) -> None:
    store = Store()
    store.directory.mkdir(parents=True)
    (store.directory / "s.jsonl").write_text(content)
    with pytest.raises(CommandError, match=r"is not a session of mull|is empty"):
        store.read("s")
    assert store.summaries() == []


def test_ids_sort_by_time_and_do_not_meet() -> None:
    start = datetime(2026, 7, 31, 12, tzinfo=UTC)
    ids = [new_id(start + timedelta(seconds=second * 40_000)) for second in range(200)]
    assert ids == sorted(ids) and len(set(ids)) == 200 and {len(item) for item in ids} == {9}


def test_a_taken_id_is_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    import app.sessions.journal as journal

    ids = iter(["same", "same", "other"])
    monkeypatch.setattr(journal, "new_id", lambda now: next(ids))
    first, second = Recorder.create(), Recorder.create()
    first.user_turn("one")
    second.user_turn("two")
    assert sorted(item.id for item in Store().summaries()) == ["other", "same"]
