"""Why there is no answer, and what to do next."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from app.sanitise import clean

RETRY = "/retry tries again; the conversation is kept"


class Failure(Static):
    """The cause and the next step; never a traceback."""

    DEFAULT_CSS = """
    Failure {
        height: auto; width: 1fr; display: none; padding: 0 1; margin: 0;
        border-left: outer $error; color: $foreground;
    }
    Failure.-shown { display: block; }
    Failure.-loading { margin: 1 2 0 2; max-width: 78; }
    """

    def show(self, message: str, hint: str, after: str = RETRY) -> None:
        """Show the cause, the next step and what can be done after it."""
        lines: list[str | tuple[str, str]] = [("✗ ", "bold $error"), clean(message)]
        if hint:
            lines.append((f"\n→ {clean(hint)}", ""))
        lines.append((f"\n{after}", "$mull-muted"))
        self.add_class("-shown")
        self.update(Content.assemble(*lines))
