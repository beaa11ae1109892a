"""Sessions are listed, found by a part of their id, searched and deleted."""

from __future__ import annotations

import os

import pytest

from app.errors import CommandError
from app.sessions.recorder import Recorder
from app.sessions.store import Store
from engine.protocol import Delta, ModelSpec


def session_saying(question: str, answer: str = "") -> str:
    recorder = Recorder.create()
    recorder.user_turn(question)
    if answer:
        turn = recorder.answer_turn(recorder.request(ModelSpec(model="some/model")))
        recorder.event(turn, Delta(candidate="0", phase="answer", text=answer, tokens=1))
    recorder.close()
    assert recorder.session is not None
    return recorder.session.id


def put_back(session_id: str, seconds: float) -> None:
    """Have the session used that long ago: files written at once may have the same time."""
    path = Store().directory / f"{session_id}.jsonl"
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_sessions_are_listed_with_name_turns_and_model_the_last_used_first() -> None:
    older = session_saying("older", "yes")
    put_back(older, seconds=20)
    newer = session_saying("newer")
    put_back(newer, seconds=10)
    found = Store().summaries()
    assert [(item.id, item.name, item.turns, item.model) for item in found] == [
        (newer, "newer", 1, None),
        (older, "older", 2, "some/model"),
    ]
    Recorder.resume(older).user_turn("again")
    first, second = Store().summaries()
    assert first.id == older and first.updated > second.updated


def test_an_id_may_be_shortened_as_long_as_it_is_one_session_s() -> None:
    store = Store()
    first = session_saying("hello")
    assert store.resolve(first[:5]) == store.resolve(first.upper()[:5]) == store.resolve("last") == first
    (store.directory / f"{first}.jsonl").rename(store.directory / "abc1.jsonl")
    (store.directory / "abc2.jsonl").write_bytes((store.directory / "abc1.jsonl").read_bytes())
    with pytest.raises(CommandError, match="2 sessions begin with 'abc': abc1, abc2"):
        store.resolve("abc")


@pytest.mark.parametrize("text", ["", "nope", "../../etc/passwd", "*", "last"])
def test_what_names_no_session_is_one_clear_line(text: str) -> None:
    with pytest.raises(CommandError, match="no session"):
        Store().resolve(text)


def test_a_search_finds_questions_and_unfinished_answers_in_any_case() -> None:
    found_in = session_saying("What is a Straße?", "A road, in GERMAN.")
    session_saying("something else")
    (match,) = Store().search("german")
    assert (match.id, match.turn, match.excerpt) == (found_in, "t2", "A road, in GERMAN.")
    assert [item.turn for item in Store().search("STRASSE")] == ["t1"]
    assert Store().search("nowhere") == []


def test_a_deleted_session_is_gone_from_the_disk() -> None:
    doomed = session_saying("hello")
    Store().delete(doomed)
    assert list(Store().directory.iterdir()) == []
