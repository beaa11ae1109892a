"""What can be done where the conversation has outgrown the context, offered below the answer that failed."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content

from app.tui.full_context import WAYS_OUT, WayOut
from app.tui.widgets.offer import Offer, OfferLine


class WaysOut(Offer):
    """Three ways to an answer; the question is asked again without being typed again."""

    DEFAULT_CSS = """
    WaysOut { height: auto; width: 1fr; margin: 1 0 0 0; }
    WaysOut.-brief { margin: 0; }
    """

    def compose(self) -> ComposeResult:
        for index, (_, title, effect) in enumerate(WAYS_OUT):
            full = Content.assemble((title, "bold"), (f"  {effect}", "$mull-muted"))
            yield OfferLine(index, full, Content(title))

    def way_at(self, index: int | None) -> WayOut | None:
        """The way with this index; None where nothing is chosen."""
        return None if index is None else WAYS_OUT[index][0]
