"""Numbered things to choose from, by number, arrow keys or mouse, while the prompt keeps the focus."""

from __future__ import annotations

from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Click
from textual.reactive import var
from textual.widgets import Static

from app.tui.messages import OfferTaken

LOW = 16
"""Lines of a terminal below which an offer is brief."""


class OfferLine(Horizontal):
    """One of the things, told in full, or in a line where the offer is brief."""

    DEFAULT_CSS = """
    OfferLine {
        height: auto; width: 1fr; border-left: blank; pointer: pointer;
        &:hover { background: $panel; }
        &.-chosen { background: $panel; border-left: outer $mull-effort; }
        & > Static { height: auto; width: 1fr; }
        & > .number { width: 3; color: $mull-effort; text-style: bold; }
        & > .brief { display: none; text-wrap: nowrap; text-overflow: ellipsis; }
    }
    """

    def __init__(self, index: int, full: Content, brief: Content) -> None:
        super().__init__(
            Static(Content(str(index + 1)), classes="number"),
            Static(full, classes="full"),
            Static(brief, classes="brief"),
        )
        self._index = index

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(OfferTaken(self._index))


class Offer(Vertical):
    """What can be chosen from now; the screen shows one offer at most."""

    DEFAULT_CSS = """
    Offer.-brief > OfferLine {
        & > .brief { display: block; }
        & > .full { display: none; }
    }
    """

    chosen: var[int | None] = var(None)
    """Which of the things the keyboard is on, from 0."""

    def on_mount(self) -> None:
        self.fit()

    def on_resize(self) -> None:
        self.fit()

    def fit(self) -> None:
        """In a low terminal everything is told in a line each."""
        self.set_class(self.app.size.height < LOW, "-brief")

    def watch_chosen(self) -> None:
        for index, line in enumerate(self.query(OfferLine)):
            line.set_class(index == self.chosen, "-chosen")

    def move(self, direction: int) -> None:
        """Put the keyboard on the next or the previous thing."""
        last = len(self.query(OfferLine)) - 1
        if last < 0:
            return
        start = -1 if direction > 0 else last + 1
        self.chosen = max(0, min(last, (start if self.chosen is None else self.chosen) + direction))

    def numbered(self, text: str) -> int | None:
        """Which of the things, from 0, this number stands for; None where it is no number of one."""
        if not text.strip().isdecimal() or len(text) > 2:
            return None
        index = int(text) - 1
        return index if 0 <= index < len(self.query(OfferLine)) else None
