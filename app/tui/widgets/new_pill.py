"""`↓ new`: text has arrived below what the reader sees."""

from __future__ import annotations

from textual.content import Content
from textual.events import Click
from textual.widgets import Static

from app.tui.messages import EndAsked


class NewPill(Static):
    """Takes the reader to the end."""

    DEFAULT_CSS = """
    NewPill {
        layer: above; dock: bottom; width: auto; height: 1; padding: 0 1; margin: 0 0 0 2; display: none;
        background: $mull-effort; color: $background; text-style: bold; pointer: pointer;
    }
    NewPill.-shown { display: block; }
    """

    def __init__(self) -> None:
        super().__init__(Content("↓ new"))

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(EndAsked())
