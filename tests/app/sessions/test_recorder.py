"""What is recorded is what is read back, whatever became of the answer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from app.errors import CommandError
from app.sessions.recorder import Clock, Recorder
from app.sessions.store import Store
from app.sessions.tree import Turn
from engine.protocol import (
    Answer,
    Candidate,
    Delta,
    Event,
    Failed,
    Finished,
    Message,
    ModelSpec,
    Notice,
    Summary,
)


def ask(recorder: Recorder, question: str) -> Turn:
    recorder.user_turn(question)
    return recorder.answer_turn(recorder.request(ModelSpec()))


def say(recorder: Recorder, turn: Turn, text: str, phase: str = "answer", candidate: str = "0") -> None:
    recorder.event(turn, Delta(candidate=candidate, phase=phase, text=text, tokens=1))


def reread(recorder: Recorder) -> list[Turn]:
    assert recorder.session is not None
    return list(Store().read(recorder.session.id).tree)


def test_a_finished_answer_is_read_back_with_its_receipt(make_answer: Callable[..., Answer]) -> None:
    recorder = Recorder.create()
    turn = ask(recorder, "Prove that √2 is irrational")
    say(recorder, turn, "Assume", "thinking")
    say(recorder, turn, "It is")
    recorder.event(turn, Finished(answer=make_answer()))

    question, answer = reread(recorder)
    assert (question.role, question.content) == ("user", "Prove that √2 is irrational")
    assert answer.parent == question.id
    assert answer.status == "complete"
    assert answer.answer == make_answer()
    assert (answer.content, answer.thinking) == (make_answer().answer, make_answer().thinking)
    assert answer.request is not None and answer.request.think == "max"
    assert reread(recorder) == list(recorder.tree)


def test_an_answer_that_never_ended_is_interrupted_and_keeps_its_text() -> None:
    recorder = Recorder.create()
    turn = ask(recorder, "hello")
    say(recorder, turn, "hm", "thinking")
    say(recorder, turn, "It is ")
    say(recorder, turn, "half")
    answer = reread(recorder)[1]
    assert (answer.status, answer.thinking, answer.content) == ("interrupted", "hm", "It is half")


def test_a_stopped_answer_keeps_its_text_and_says_so(make_answer: Callable[..., Answer]) -> None:
    recorder = Recorder.create()
    turn = ask(recorder, "hello")
    recorder.event(turn, Finished(answer=make_answer("half", finish="cancelled")))
    assert [(t.status, t.content) for t in reread(recorder)][1] == ("stopped", "half")


def test_a_failed_answer_keeps_its_text_and_the_reason() -> None:
    recorder = Recorder.create()
    turn = ask(recorder, "hello")
    say(recorder, turn, "half")
    recorder.event(turn, Failed(code="engine", message="the engine went away", hint="ask again"))
    answer = reread(recorder)[1]
    assert (answer.status, answer.content) == ("failed", "half")
    assert answer.error == "the engine went away; ask again"


def test_a_question_that_got_no_answer_is_not_sent_again() -> None:
    recorder = Recorder.create()
    turn = ask(recorder, "first")
    recorder.event(turn, Failed(code="engine", message="gone"))
    recorder.user_turn("second")
    assert recorder.messages() == (Message("user", "second", id="t3"),)


def test_the_messages_of_a_resumed_session_are_those_of_the_one_that_was_left() -> None:
    recorder = Recorder.create()
    recorder.system_turn("Be brief.")
    turn = ask(recorder, "hello")
    say(recorder, turn, "hm", "thinking")
    say(recorder, turn, "hi")
    expected = (
        Message("system", "Be brief.", id="t1"),
        Message("user", "hello", id="t2"),
        Message("assistant", "hi", "hm", id="t3"),
    )
    assert recorder.messages() == expected
    recorder.close()
    resumed = Recorder.resume("last")
    assert resumed.messages() == expected
    assert resumed.user_turn("more").id == "t4"


def test_a_retry_and_an_edit_are_siblings_and_the_path_follows_the_chosen_one() -> None:
    recorder = Recorder.create()
    first = ask(recorder, "hello")
    say(recorder, first, "one")
    recorder.go(first.parent)
    second = recorder.answer_turn(recorder.request(ModelSpec()))
    say(recorder, second, "two")
    tree = recorder.tree
    assert [turn.content for turn in tree.siblings(first.id)] == ["one", "two"]
    assert tree.place(second.id) == (2, 2)
    assert recorder.messages()[-1].content == "two"

    recorder.go(first.id)
    assert recorder.messages()[-1].content == "one"
    recorder.go(None)
    recorder.user_turn("hello, you")
    assert [turn.content for turn in recorder.tree.children(None)] == ["hello", "hello, you"]
    assert recorder.messages() == (Message("user", "hello, you", id="t4"),)


def test_losing_candidates_are_siblings_of_the_kept_answer(make_answer: Callable[..., Answer]) -> None:
    recorder = Recorder.create()
    turn = ask(recorder, "hello")
    say(recorder, turn, "thought of b", "thinking", "b")
    candidates = (
        Candidate(id="a", answer="kept", tokens=1, kept=True),
        Candidate(id="b", answer="lost", tokens=1, kept=False),
    )
    recorder.event(turn, Finished(answer=make_answer("kept", candidates=candidates)))
    kept, lost = recorder.tree.siblings(turn.id)
    assert (kept.content, lost.content, lost.thinking) == ("kept", "lost", "thought of b")
    assert recorder.messages()[-1].content == "kept"
    assert ask(recorder, "next").id == "t4"
    assert reread(recorder) == list(recorder.tree)


def test_nothing_said_leaves_nothing_behind() -> None:
    Recorder.create().close()
    assert Store().summaries() == []
    assert not Store().directory.exists()


def test_a_session_is_named_by_its_first_words() -> None:
    recorder = Recorder.create()
    recorder.user_turn("a  question\nof many words " + "word " * 40)
    name = Store().summaries()[0].name
    assert name.startswith("a question of many words") and name.endswith("…") and len(name) <= 60


def test_text_that_no_encoding_can_hold_is_kept_without_it() -> None:
    recorder = Recorder.create()
    recorder.user_turn("a\udcffb\x1b[2J\u202e")
    assert reread(recorder)[0].content == "a\ufffdb\x1b[2J\u202e" == recorder.messages()[0].content


def test_events_carry_the_seconds_since_their_turn_on_a_steady_clock() -> None:
    ticks = iter([10.0, 10.25, 12.5])
    recorder = Recorder.create(clock=Clock(monotonic=lambda: next(ticks)))
    turn = ask(recorder, "hello")
    events: list[Event] = [Notice(code="x", text="y"), Failed(code="engine", message="gone")]
    for event in events:
        recorder.event(turn, event)
    assert recorder.session is not None
    text = (Store().directory / f"{recorder.session.id}.jsonl").read_text()
    assert '"at":0.25' in text and '"at":2.5' in text


def test_sessions_are_private_to_their_user() -> None:
    recorder = Recorder.create()
    recorder.user_turn("hello")
    (path,) = Store().directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_refuses_is_one_clear_line_and_the_next_line_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder.create()
    turn = ask(recorder, "hello")
    say(recorder, turn, "one ")
    import app.sessions.journal as journal

    real, left = journal.os.write, [7]

    def full_after_seven_bytes(descriptor: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0], room = 0, left[0]
        return real(descriptor, data[:room])

    monkeypatch.setattr(journal.os, "write", full_after_seven_bytes)
    with pytest.raises(CommandError, match=r"cannot write session .*: no space left on device"):
        say(recorder, turn, "two ")
    assert recorder.tree[turn.id].content == "one two "
    monkeypatch.setattr(journal.os, "write", real)
    say(recorder, turn, "three")
    assert reread(recorder)[1].content == "one three"


def test_the_next_request_brings_back_the_last_summary_of_its_own_path(
    make_answer: Callable[..., Answer],
) -> None:
    recorder = Recorder.create()
    assert recorder.summary() is None
    summary = Summary(text="They said hello.", turns=("t1", "t2"))
    first = ask(recorder, "hello")
    recorder.event(first, Finished(answer=msgspec.structs.replace(make_answer("hi"), summary=summary)))
    recorder.event(ask(recorder, "and?"), Finished(answer=make_answer("more")))
    recorder.user_turn("go on")
    assert recorder.request(ModelSpec()).summary == summary
    assert recorder.session is not None
    recorder.close()
    assert Recorder.resume(recorder.session.id).request(ModelSpec()).summary == summary
    recorder.go(first.parent)
    assert recorder.summary() is None, "the summary is that of another branch"
