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

    def __init__(self) -> None:
        super().__init__()
        self._text = ""

    def render(self) -> Content:
        """Lines after the first are indented below its text."""
        room = max(1, self.size.width - 2)
        return Content("└ ") + Content("\n  ").join(Content(self._text).wrap(room))

    def show(self, answer: Answer, place: tuple[int, int]) -> None:
        """Show the cost of this answer; `place` is its number among its siblings and how many there are."""
        self.say(figures.receipt_line(answer, place))

    def say(self, text: str) -> None:
        """Show this, as where an answer has no receipt."""
        self._text = text
        self.add_class("-shown")
        self.refresh(layout=True)
