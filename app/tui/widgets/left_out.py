"""The line between the turns that the last answer was told of and those that it was not."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static


class LeftOut(Static):
    """Below the last turn that the context had no room for."""

    DEFAULT_CSS = """
    LeftOut { height: auto; width: 1fr; color: $mull-muted; text-align: center; margin: 0 0 1 0; }
    """

    def __init__(self, count: int, summarized: bool) -> None:
        how = "summarized for" if summarized else "not sent with"
        super().__init__(Content(f"↑ {count} turns above were {how} the last answer · /overflow"))
