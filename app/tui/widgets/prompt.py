"""Where the person writes: several lines, what was sent before, and completion of commands."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import TextArea

from app.tui.commands import COMMANDS
from app.tui.keymap import bindings
from app.tui.messages import (
    CompletionChosen,
    CompletionMoved,
    OfferMoved,
    OfferTaken,
    PromptEdited,
    PromptSubmitted,
)

_ACTIONS = {key: c.action for c in COMMANDS if c.id in ("send", "newline") for key in c.keys}


class Prompt(TextArea):
    """Enter sends; ctrl+j starts a new line, and so does shift+enter where the terminal sends it."""

    DEFAULT_CSS = """
    Prompt {
        height: auto; min-height: 1; max-height: 10; padding: 0; border: none;
        background: transparent; color: $foreground; scrollbar-size-vertical: 1;
        &:focus { border: none; background-tint: transparent; }
        & .text-area--cursor-line { background: transparent; }
        & .text-area--placeholder { color: $mull-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("prompt"), Binding("tab", "complete", show=False)]

    def __init__(self, *, blink: bool = True) -> None:
        super().__init__(
            soft_wrap=True,
            tab_behavior="focus",
            show_line_numbers=False,
            highlight_cursor_line=False,
            placeholder="Ask anything, or / for commands",
            compact=True,
        )
        self.cursor_blink = blink
        self._sent: list[str] = []
        self._recalled: int | None = None
        self._draft = ""
        self.completing = False
        """Whether completions are open: up, down, tab and enter then go to them."""
        self.offering = False
        """Whether there is something to choose from: up, down and enter go to it while nothing is written."""

    async def _on_key(self, event: events.Key) -> None:
        """Keys that a text area would write are commands here, taken in the order they were typed in."""
        action = _ACTIONS.get(event.key)
        if action is not None:
            event.stop()
            event.prevent_default()
            await self.run_action(action)

    def remember(self, prompts: list[str]) -> None:
        """Prompts that `up` recalls, the oldest first."""
        self._sent = list(prompts)
        self._recalled = None

    def replace_text(self, text: str) -> None:
        """Write this instead, the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        self.post_message(PromptEdited(self.text))

    def action_send(self) -> None:
        if self.completing:
            self.post_message(CompletionChosen(run=True))
        elif self.text.strip() or not self.offering:
            self.submit()
        else:
            self.post_message(OfferTaken())

    def submit(self) -> None:
        """Send what is written. The prompt is empty at once: what is typed from here on is the next one."""
        if self.text.strip():
            self.post_message(PromptSubmitted(self.text))
            self.clear()

    def sent(self, text: str) -> None:
        """The text was accepted: it is history now."""
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
        self._recalled = None

    def take_back(self, text: str) -> None:
        """The text was not accepted: it is here again."""
        self.replace_text(text + self.text)

    def action_newline(self) -> None:
        self.insert("\n")

    def action_complete(self) -> None:
        if self.completing:
            self.post_message(CompletionChosen())

    def action_older(self) -> None:
        if self.completing:
            self.post_message(CompletionMoved(-1))
        elif self.offering and not self.text:
            self.post_message(OfferMoved(-1))
        elif (
            self.navigator.is_first_wrapped_line(self.cursor_location)
            and not self.selected_text
            and self._sent
            and self._recalled != 0
        ):
            if self._recalled is None:
                self._draft = self.text
            self._recalled = (len(self._sent) if self._recalled is None else self._recalled) - 1
            self.replace_text(self._sent[self._recalled])
        else:
            self.action_cursor_up()

    def action_newer(self) -> None:
        if self.completing:
            self.post_message(CompletionMoved(1))
        elif self.offering and not self.text:
            self.post_message(OfferMoved(1))
        elif self.navigator.is_last_wrapped_line(self.cursor_location) and self._recalled is not None:
            self._recalled += 1
            if self._recalled == len(self._sent):
                self._recalled = None
                self.replace_text(self._draft)
            else:
                self.replace_text(self._sent[self._recalled])
        else:
            self.action_cursor_down()
