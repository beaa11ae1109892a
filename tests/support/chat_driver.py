"""What a test does with the app on a scripted engine: ask, type, wait, and read what is shown."""

from __future__ import annotations

from textual import events
from textual.widgets import Markdown, Static

from app.sessions.session import Session
from app.tui.app import MullApp
from app.tui.screens.chat import ChatScreen
from app.tui.widgets.answer_turn import AnswerTurn


def chat(app: MullApp) -> ChatScreen:
    return app.chat


def answers(app: MullApp) -> list[AnswerTurn]:
    """Those that are on the screen."""
    return list(chat(app).query(AnswerTurn))


def text_of(widget: Static) -> str:
    """What it shows."""
    return str(widget.render())


def said(answer: AnswerTurn) -> str:
    """The text of its answer."""
    return answer.body.query_one(Markdown).source


def type_at_once(app: MullApp, text: str) -> None:
    """Type faster than the app can follow."""
    for character in text:
        app.post_message(events.Key("space" if character == " " else character, character))


async def settle(pilot) -> None:
    """Wait until what the engine's script says by now is drawn."""
    await pilot.app.chat.services.engine.settle(pilot)


async def ask(pilot, text: str = "What is 1+1?") -> None:
    """Send this, and wait for what the script says to it."""
    chat(pilot.app).prompt.focus()
    chat(pilot.app).prompt.replace_text(text)
    await pilot.press("enter")
    await settle(pilot)


def session(kit) -> Session:
    """The only session, as it is on disk."""
    (summary,) = kit.store.summaries()
    return kit.store.read(summary.id)
