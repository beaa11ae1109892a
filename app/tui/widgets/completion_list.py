"""What the slash command being typed could become."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from app.tui.messages import CompletionChosen


class CompletionList(OptionList, can_focus=False):
    """A popup above the prompt; the prompt keeps the focus and moves the highlight."""

    DEFAULT_CSS = """
    CompletionList {
        height: auto; max-height: 8; display: none; border: none; padding: 0 1; margin: 0 1;
        background: $panel; color: $foreground; scrollbar-size-vertical: 1;
        & > .option-list--option { padding: 0 1; }
        & > .option-list--option-highlighted { background: $mull-rule; color: $foreground; text-style: bold; }
        &.-open { display: block; }
    }
    """

    def show(self, choices: list[tuple[str, str]]) -> None:
        """Offer these: pairs of the completed text and its explanation; none closes the list."""
        self.set_class(bool(choices), "-open")
        width = max((len(text) for text, _ in choices), default=0) + 2
        self.clear_options()
        self.add_options(
            Option(Content.assemble(text.ljust(width), (explanation, "dim")), id=text)
            for text, explanation in choices
        )
        self.highlighted = 0 if choices else None

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    @property
    def current(self) -> str | None:
        """The text that is highlighted."""
        option = self.highlighted_option
        return option.id if option is not None else None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id is not None:
            self.post_message(CompletionChosen(event.option.id))
