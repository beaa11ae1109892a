"""What each method would cost for a question, and how often it is right; one of them can be taken at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from app.cli.output import cell_width
from app.foreseen import HEADINGS, LEGEND, SHARES, cells, sources
from app.sanitise import clean_line
from engine.protocol import Failed, Loading
from engine.protocol.preview import Preview, Previewed, PreviewEvent, PreviewRow

GAP = 2
LEFT_OUT = (3, 6, 7)
"""Columns that a narrow screen does without, the first of them last: interval, energy, compute."""


class PreviewScreen(ModalScreen[PreviewRow | None]):
    """Enter answers with the method that is marked; esc or q leaves the question as it is."""

    CSS_PATH = "preview.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Close", show=False),
        Binding("j", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
    ]
    AUTO_FOCUS = "#ways"

    def __init__(self, question: str, events: AsyncGenerator[PreviewEvent, None]) -> None:
        super().__init__()
        self._question = question
        self._events = events
        self._found: Preview | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="preview", can_focus=False) as box:
            box.border_title = "Preview"
            box.border_subtitle = "enter answers so · esc close"
            yield Static(Content(clean_line(self._question)), id="question")
            yield Static(id="headings")
            yield OptionList(id="ways")
            yield Static(Content("reckoning…"), id="reason")
            yield Static(id="sources")

    def on_mount(self) -> None:
        self._foresee()

    @work(exit_on_error=False)
    async def _foresee(self) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                match event:
                    case Loading(stage=stage):
                        self._say(f"{stage}…")
                    case Failed(message=message, hint=hint):
                        self._say(": ".join(filter(None, (message, hint))))
                    case Previewed(preview=found):
                        self._found = found
                        self._show()

    def _say(self, text: str) -> None:
        self.query_one("#reason", Static).update(Content(clean_line(text)))

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        """The table as wide as there is room, and what is behind it."""
        found, ways = self._found, self.query_one("#ways", OptionList)
        if found is None or not ways.content_size.width:
            return
        marked = ways.highlighted
        lines = fitted([HEADINGS, *map(cells, found.rows)], ways.content_size.width)
        self.query_one("#headings", Static).update(Content(lines[0]))
        ways.clear_options()
        ways.add_options(
            Content.styled(line, "dim" if row.dead or not row.fits else "")
            for line, row in zip(lines[1:], found.rows, strict=True)
        )
        ways.highlighted = found.rows.index(found.chosen) if marked is None else marked
        self._say(f"auto would take {cells(found.chosen)[1]}, {found.reason}")
        notes = [LEGEND, SHARES, sources(found), *found.notes]
        self.query_one("#sources", Static).update(Content("\n".join(map(clean_line, notes))))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._found is not None:
            self.dismiss(self._found.rows[event.option_index])

    def action_close(self) -> None:
        self.dismiss(None)

    def action_move(self, rows: int) -> None:
        ways = self.query_one("#ways", OptionList)
        (ways.action_cursor_down if rows > 0 else ways.action_cursor_up)()


def fitted(table: Sequence[Sequence[str]], width: int) -> list[str]:
    """Each row as a line, in columns; without those that there is no room for."""
    columns = list(zip(*([clean_line(cell) for cell in row] for row in table), strict=True))
    widths = [max(map(cell_width, column)) for column in columns]
    kept = list(range(len(columns)))
    for column in reversed(LEFT_OUT):
        if sum(widths[at] + GAP for at in kept) - GAP > width:
            kept.remove(column)
    return [
        (" " * GAP).join(row[at] + " " * (widths[at] - cell_width(row[at])) for at in kept).rstrip()
        for row in zip(*columns, strict=True)
    ]
