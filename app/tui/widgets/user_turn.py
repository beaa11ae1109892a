"""What the person asked."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from app.sanitise import clean

SHOWN_LINES = 30
SHOWN_CHARACTERS = 4000


class UserTurn(Static):
    """A prompt in the transcript; a very long one is shown by its beginning."""

    DEFAULT_CSS = """
    UserTurn {
        height: auto; width: 1fr; margin: 1 0 1 0; padding: 0 1; color: $foreground;
        border-left: outer $mull-user; text-style: bold;
    }
    """

    def __init__(self, turn_id: str, text: str) -> None:
        super().__init__(Content(shortened(clean(text))))
        self.turn_id = turn_id
        self.text = text
        self.add_class("turn")


def shortened(text: str) -> str:
    """The beginning of a long text, and how much more there is."""
    lines = text.strip("\n").split("\n")
    shown = "\n".join(lines[:SHOWN_LINES])[:SHOWN_CHARACTERS]
    left_lines = len(lines) - SHOWN_LINES
    if left_lines > 0:
        return f"{shown}\n… and {left_lines:,} lines more"
    left = len("\n".join(lines)) - len(shown)
    return f"{shown} … and {left:,} characters more" if left > 0 else shown
