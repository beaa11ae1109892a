"""The line above the transcript that stands for turns that are not shown."""

from __future__ import annotations

from textual.content import Content
from textual.events import Click
from textual.widgets import Static

from app.tui.messages import EarlierTurnsAsked


class EarlierTurns(Static):
    """A long conversation keeps its last turns on the screen; this brings back the others."""

    DEFAULT_CSS = """
    EarlierTurns { height: 1; width: 1fr; color: $mull-muted; text-align: center; pointer: pointer; }
    EarlierTurns:hover { color: $foreground; }
    """

    def __init__(self, count: int) -> None:
        super().__init__(Content(f"↑ {count} earlier turns"))

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(EarlierTurnsAsked())
