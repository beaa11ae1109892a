"""What an answer cost, in one line below it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from app import figures
from engine.protocol import Answer


class ReceiptLine(Horizontal):
    """The receipt's short form, or how an answer without one ended."""

    DEFAULT_CSS = """
    ReceiptLine {
        height: auto; width: 1fr; color: $mull-muted; display: none;
        &.-shown { display: block; }
        & > .corner { width: 2; }
        & > #cost { width: 1fr; height: auto; }
    }
    """

    def compose(self) -> ComposeResult:
        yield Static(Content("└"), classes="corner")
        yield Static(id="cost")

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.query_one("#cost", Static).render())

    def show(self, answer: Answer, place: tuple[int, int]) -> None:
        """Show the cost of this answer; `place` is its number among its siblings and how many there are."""
        self.say(figures.receipt_line(answer, place))

    def say(self, text: str) -> None:
        """Show this."""
        self.add_class("-shown")
        self.query_one("#cost", Static).update(Content(text))
