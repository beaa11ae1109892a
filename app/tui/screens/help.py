"""Keys and commands, from the one registry."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from app import figures
from app.tui.commands import COMMANDS, Where
from app.tui.keymap import labels

TITLES: dict[Where, str] = {
    "anywhere": "Anywhere",
    "prompt": "While writing",
    "transcript": "In the transcript (esc on an empty prompt)",
}

_WIDTHS = [(0, "-narrow"), (64, "-normal")]


class HelpScreen(ModalScreen[None]):
    """Closed by esc, q, ? or F1."""

    CSS_PATH = "help.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,question_mark", "dismiss", "Close", show=False),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]
    HORIZONTAL_BREAKPOINTS = _WIDTHS
    AUTO_FOCUS = "#help"

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as help_:
            help_.border_title = "Help"
            help_.border_subtitle = "j k scroll · esc close"
            for where, title in TITLES.items():
                commands = [command for command in COMMANDS if command.where == where and command.keys]
                yield Static(Content(title), classes="title")
                yield from (HelpRow(labels(command), command.help) for command in commands)
            yield Static(Content("Commands"), classes="title")
            yield from (HelpRow(command.usage, command.help) for command in COMMANDS if command.slash)
            yield Static(Content("Figures"), classes="title")
            yield Static(Content(figures.LEGEND), classes="legend")

    def action_scroll(self, lines: int) -> None:
        self.query_one("#help").scroll_relative(y=lines, animate=False, immediate=True)


class HelpRow(Horizontal):
    """A key or a command, and what it does."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(Static(Content(left), classes="key"), Static(Content(right)))
