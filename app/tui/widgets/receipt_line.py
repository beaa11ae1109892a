"""What an answer cost, in one line below it."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from app import figures
from engine.protocol import Answer


class ReceiptLine(Static):
    """The receipt's short form; a stopped answer says so in front."""

    DEFAULT_CSS = """
    ReceiptLine { height: auto; width: 1fr; color: $mull-muted; display: none; margin: 0; }
    ReceiptLine.-shown { display: block; }
    """

    def show(self, answer: Answer, place: tuple[int, int]) -> None:
        """Show the cost of this answer; `place` is its number among its siblings and how many there are."""
        self.add_class("-shown")
        self.update(Content.assemble("⎿ ", figures.receipt_line(answer, place)))

    def say(self, what: str) -> None:
        """There is no receipt: say how the answer ended."""
        self.add_class("-shown")
        self.update(Content.assemble("⎿ ", what))
