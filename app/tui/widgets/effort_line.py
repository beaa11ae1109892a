"""The line below the prompt: the dial of how much the next answer may think, and the keys to know."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.events import Click
from textual.reactive import reactive
from textual.widgets import Static

from app import figures
from app.tui.bars import dots
from app.tui.effort import Effort
from app.tui.messages import DialTurned


class DialButton(Static):
    """One end of the dial."""

    DEFAULT_CSS = """
    DialButton { width: auto; height: 1; color: $mull-muted; pointer: pointer; }
    DialButton:hover { color: $foreground; background: $panel; }
    """

    def __init__(self, text: str, direction: int) -> None:
        super().__init__(Content(text))
        self._direction = direction

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(DialTurned(self._direction))


class EffortLine(Horizontal):
    """`think F3 ●●●○○ 512 F4`, and hints at the right where there is room."""

    DEFAULT_CSS = """
    EffortLine {
        height: 1; padding: 0 1;
        & > #dial { width: auto; height: 1; }
        & > #hints { width: 1fr; height: 1; color: $mull-muted; text-align: right; text-wrap: nowrap;
                     text-overflow: clip; }
    }
    """

    effort: reactive[Effort] = reactive(Effort())
    can_think: reactive[bool] = reactive(True)
    hints: reactive[tuple[str, ...]] = reactive(())
    """The same keys told at several lengths, the longest first."""

    def compose(self) -> ComposeResult:
        yield DialButton("‹F3 ", -1)
        yield Static(id="dial")
        yield DialButton(" F4›", +1)
        yield Static(id="hints")

    def on_mount(self) -> None:
        self._show()

    def on_resize(self) -> None:
        self._show()

    def watch_effort(self) -> None:
        self._show()

    def watch_can_think(self) -> None:
        self._show()

    def watch_hints(self) -> None:
        self._show()

    def _show(self) -> None:
        if not self.is_mounted:
            return
        for button in self.query(DialButton):
            button.display = self.can_think
        dial = self._dial()
        self.query_one("#dial", Static).update(dial)
        room = self.size.width - dial.cell_length - (8 if self.can_think else 0) - 2
        fitting = next((text for text in self.hints if len(text) <= room), "")
        self.query_one("#hints", Static).update(Content(fitting))

    def _dial(self) -> Content:
        if not self.can_think:
            return Content.styled("this model does not think", "$mull-muted")
        effort = self.effort
        value = effort.think if isinstance(effort.think, str) else f"{figures.count(effort.think)} tok"
        more = Content.styled(
            "".join(f" · {part}" for part in (effort.method, effort.budget) if part), "bold"
        )
        if not effort.steps:  # the model's own are not known yet
            return Content.assemble("think ", (value, "bold"), more)
        return Content.assemble("think ", dots(effort.level, effort.levels), " ", (value, "bold"), more)
