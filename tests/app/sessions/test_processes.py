"""Two processes on one store, and a process that is killed: nothing acknowledged is lost."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.errors import CommandError
from app.sessions.recorder import Recorder
from app.sessions.store import Store
from engine.protocol import ModelSpec

WRITER = """
from app.sessions.recorder import Recorder
from engine.protocol import Delta, ModelSpec
recorder = Recorder.create()
recorder.user_turn("count")
turn = recorder.answer_turn(recorder.request(ModelSpec()))
for number in range(1_000_000):
    recorder.event(turn, Delta(candidate="0", phase="answer", text=f"{number} ", tokens=1))
    print(number, flush=True)
"""
HOLDER = """
from app.sessions.recorder import Recorder
recorder = Recorder.create()
recorder.user_turn("held")
print(recorder.session.id, flush=True)
input()
"""


@pytest.fixture
def holder() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with a session open, and the session's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


@pytest.mark.parametrize("trial", range(3))
def test_all_that_a_killed_process_acknowledged_is_there(trial: int) -> None:
    acknowledged = random.Random(trial).randrange(1, 400)
    process = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(acknowledged):
        last = int(process.stdout.readline())
    process.kill()
    rest, _ = process.communicate()
    last = max([last, *(int(line) for line in rest.split("\n")[:-1])])

    (found,) = Store().summaries()
    answer = Store().read(found.id).tree["t2"]
    numbers = [int(number) for number in answer.content.split()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > last
    assert answer.status == "interrupted"
    Recorder.resume(found.id).user_turn("go on")


def test_a_session_that_another_process_has_open_is_refused_and_still_readable(
    holder: tuple[subprocess.Popen[str], str],
) -> None:
    process, held = holder
    for refused in (lambda: Recorder.resume(held), lambda: Store().delete(held)):
        with pytest.raises(CommandError, match="is open in another mull; close it there first"):
            refused()
    assert Store().read(held).name == "held"
    process.kill()
    process.wait()
    Recorder.resume(held).user_turn("mine now")


def test_two_processes_keep_sessions_of_their_own_in_one_store(
    holder: tuple[subprocess.Popen[str], str],
) -> None:
    _, held = holder
    recorder = Recorder.create()
    recorder.user_turn("own")
    recorder.answer_turn(recorder.request(ModelSpec()))
    assert recorder.session is not None
    assert {item.id: item.name for item in Store().summaries()} == {held: "held", recorder.session.id: "own"}
