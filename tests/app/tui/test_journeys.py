"""Whole journeys through the terminal app on the real engine and the bundled model."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Callable
from fcntl import ioctl
from pathlib import Path

import pytest
from cli import MULL
from textual.pilot import Pilot

from app.cli.engine import open_engine
from app.config import Settings
from app.sessions.recorder import Recorder
from app.sessions.session import Session
from app.sessions.store import Store
from app.tui.app import MullApp
from app.tui.services import Services
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.failure import Failure
from app.tui.widgets.receipt_line import ReceiptLine
from engine.client import ResidentEngine

QUESTION = "What is 48 + 26?"
LONG = {"think": "off", "temperature": 99.0, "seed": 11, "max_tokens": 3000}
"""So hot that the model babbles for two thousand tokens."""
PATIENCE_S = 60.0


@pytest.fixture
async def engine() -> AsyncIterator[ResidentEngine]:
    engine = open_engine()
    yield engine
    await engine.shutdown()
    await engine.close()


def app_on(engine: ResidentEngine, **settings: object) -> MullApp:
    return MullApp(
        Services(
            engine=engine,
            new_recorder=Recorder.create,
            remember=lambda key, value: None,
            settings=Settings(**settings),  # type: ignore[arg-type]
            blink=False,
        )
    )


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Wait for a state of the screen, which the engine brings about in its own time."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "the screen never came to this"
        await pilot.pause(0.02)


async def ask(pilot: Pilot[None], text: str) -> None:
    await pilot.press(*text, "enter")


def answers(app: MullApp) -> list[AnswerTurn]:
    return list(app.chat.query(AnswerTurn))


def journal() -> Session:
    return Store().read(Store().resolve("last"))


async def test_a_question_is_thought_about_answered_receipted_and_kept(engine: ResidentEngine) -> None:
    app = app_on(engine, think=64)
    async with app.run_test(size=(120, 40)) as pilot:
        await ask(pilot, QUESTION)
        await until(pilot, lambda: bool(answers(app)) and app.chat.live is None)
        assert "think " in answers(app)[0].query_one(ReceiptLine).text
    question, turn = journal().tree
    assert question.content == QUESTION and turn.answer is not None
    assert turn.status == "complete" and turn.content.strip() == turn.answer.answer
    tokens = turn.answer.receipt.tokens
    assert tokens.thinking > 0 and tokens.thinking + tokens.forced <= 64


async def test_esc_stops_and_keeps_what_was_said(engine: ResidentEngine) -> None:
    app = app_on(engine, **LONG)
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot, QUESTION)
        await until(pilot, lambda: app.chat.live is not None and app.chat.live.view.state == "answering")
        await pilot.press("escape")
        await until(pilot, lambda: app.chat.live is None)
        assert "stopped" in answers(app)[0].query_one(ReceiptLine).text
    turn = journal().tree[journal().latest or ""]
    assert turn.status == "stopped" and turn.content and turn.answer is not None


async def test_an_engine_killed_in_the_middle_is_told_and_the_question_can_be_asked_again(
    engine: ResidentEngine,
) -> None:
    app = app_on(engine, **LONG)
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot, QUESTION)
        await until(pilot, lambda: app.chat.live is not None and app.chat.live.view.state == "answering")
        status = await engine.status()
        assert status is not None
        os.kill(status.pid, signal.SIGKILL)
        await until(pilot, lambda: app.chat.live is None)
        assert answers(app)[0].query_one(Failure).has_class("-shown")
        kept = journal().tree[journal().latest or ""]
        assert kept.status == "failed" and kept.content
        await ask(pilot, "/retry")
        await until(pilot, lambda: app.chat.live is not None and app.chat.live.view.state == "answering")
        await pilot.press("escape")
        await until(pilot, lambda: app.chat.live is None)
    again = journal()
    assert len(again.tree.siblings(kept.id)) == 2


@pytest.fixture
def babble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings for `mull` under which an answer is long."""
    for name, value in LONG.items():
        monkeypatch.setenv(f"MULL_{name.upper()}", str(value))


class Terminal:
    """A pseudo-terminal with `mull` on it."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(MULL, [str(MULL), *arguments])
        ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.sent = ""
        """All that it was sent."""
        self.shown = ""
        """The text of it."""

    def until(self, words: str) -> None:
        """Read until the screen has been sent these words, whatever their colors."""
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.shown:
            assert time.monotonic() < deadline, f"{words!r} was never shown"
            if select.select([self._terminal], [], [], 0.05)[0]:
                text = os.read(self._terminal, 65536).decode("utf-8", "replace")
                self.sent += text
                self.shown += re.sub(r"\x1b\[[0-9;?<>=$ ]*[A-Za-z]", "", text)

    def close(self) -> None:
        """The window is gone."""
        os.close(self._terminal)

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if select.select([self._terminal], [], [], 0.05)[0]:
                try:
                    self.sent += os.read(self._terminal, 65536).decode("utf-8", "replace")
                except OSError:
                    break
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_on_a_real_terminal_a_conversation_is_held_left_and_taken_up_again(home: Path) -> None:
    first = Terminal()
    first.until("Ask anything")
    first.type(QUESTION + "\r")
    first.until("ttft")
    first.type("\x11")
    assert first.wait() == 0
    again = Terminal("--resume", "last")
    again.until(QUESTION)
    again.until("ttft")
    again.type("\x11")
    assert again.wait() == 0
    assert subprocess.run([MULL, "stop"], check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_keeps_the_answer_and_gives_the_terminal_back(
    home: Path, babble: None, number: signal.Signals
) -> None:
    terminal = Terminal()
    terminal.until("Ask anything")
    terminal.type(QUESTION + "\r")
    terminal.until("answering")
    os.kill(terminal.pid, number)
    assert terminal.wait() == 128 + number
    for mode in (1049, 1000, 2004):  # the other screen, the mouse, marked pastes
        assert terminal.sent.rfind(f"\x1b[?{mode}l") > terminal.sent.rfind(f"\x1b[?{mode}h")
    assert journal().tree[journal().latest or ""].status == "stopped"
    assert subprocess.run([MULL, "stop"], check=False).returncode == 0


def test_a_closed_terminal_leaves_no_process_behind_and_loses_nothing(home: Path, babble: None) -> None:
    terminal = Terminal()
    terminal.until("Ask anything")
    terminal.type(QUESTION + "\r")
    terminal.until("answering")
    terminal.close()
    deadline = time.monotonic() + PATIENCE_S
    while os.waitpid(terminal.pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline, "the app stays behind"
        time.sleep(0.05)
    turn = journal().tree[journal().latest or ""]
    assert turn.status in ("stopped", "interrupted") and turn.content
    assert subprocess.run([MULL, "stop"], check=False).returncode == 0
