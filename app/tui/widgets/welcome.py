"""The empty screen: what the model can do, prompts to begin with, and how to get another model."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Click
from textual.reactive import var
from textual.widgets import Static

from app.sanitise import clean_line
from app.tui.messages import StarterChosen
from app.tui.starters import Starter

DEMONSTRATION_MODEL = "tiny"
ABOUT_TINY = (
    "This is mull's demonstration model: a few million parameters that came with the program. "
    "It works out arithmetic, little stories and puzzles step by step, and little else."
)
BRIEF_TINY = "does arithmetic and puzzles"
ABOUT_OTHER = "Runs on this machine. Set how much it may think with shift+tab; each answer says what it cost."
LOW = 16
"""Lines of a terminal below which the text is brief."""
REAL_MODEL = "mull --model PATH|REPO"


class StarterLine(Horizontal):
    """One prompt that can be chosen, with its title and what it shows; when brief, the prompt alone."""

    DEFAULT_CSS = """
    StarterLine {
        height: auto; width: 1fr; border-left: blank; pointer: pointer;
        &:hover { background: $panel; }
        &.-chosen { background: $panel; border-left: outer $mull-effort; }
        & > Static { height: auto; width: 1fr; }
        & > .number { width: 3; color: $mull-effort; text-style: bold; }
        & > .brief { display: none; text-wrap: nowrap; text-overflow: ellipsis; }
        &.-brief > .brief { display: block; }
        &.-brief > .full { display: none; }
    }
    """

    def __init__(self, number: int, starter: Starter) -> None:
        hint = f"  {starter.hint}" if starter.hint else ""
        title = Content.assemble((starter.title, "bold"), (hint, "$mull-muted"))
        super().__init__(
            Static(Content(str(number)), classes="number"),
            Static(Content.assemble(title, f"\n{starter.prompt}"), classes="full"),
            Static(Content(starter.prompt), classes="brief"),
        )
        self.starter = starter

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(StarterChosen(self.starter.prompt))


class Welcome(Vertical):
    """Shown while the conversation is empty."""

    DEFAULT_CSS = """
    Welcome {
        height: auto; width: 1fr; max-width: 78; padding: 1 2 0 2;
        & > Static { height: auto; width: 1fr; }
        & > StarterLine { margin: 0 0 1 0; }
        & > #about { margin: 0 0 1 0; }
        & > #real { color: $mull-muted; }
        &.-brief { padding: 0; }
        &.-brief > StarterLine, &.-brief > #about { margin: 0; height: 1; }
    }
    """

    chosen: var[int | None] = var(None)
    """Which prompt the keyboard is on, from 0."""

    def __init__(self, model: str, starters: tuple[Starter, ...]) -> None:
        super().__init__()
        self._model = model
        self._starters = starters

    def on_mount(self) -> None:
        self._fit()

    def on_resize(self) -> None:
        self._fit()

    def _fit(self) -> None:
        """In a low terminal everything is told in a line each."""
        brief = self.app.size.height < LOW
        for widget in (self, *self.query(StarterLine)):
            widget.set_class(brief, "-brief")
        about = ABOUT_OTHER
        if self._model == DEMONSTRATION_MODEL:
            about = BRIEF_TINY if brief else ABOUT_TINY
        name = (clean_line(self._model), "bold $mull-effort")
        self.query_one("#about", Static).update(Content.assemble(name, "  ", about))
        how = "" if brief else " with a folder, or a repository that is already in the Hugging Face cache."
        lead = "Else: " if brief else "For a real model: "
        self.query_one("#real", Static).update(Content.assemble(lead, (REAL_MODEL, "$foreground"), how))

    def compose(self) -> ComposeResult:
        yield Static(id="about")
        for number, starter in enumerate(self._starters, 1):
            yield StarterLine(number, starter)
        yield Static(id="real")

    def watch_chosen(self) -> None:
        for index, line in enumerate(self.query(StarterLine)):
            line.set_class(index == self.chosen, "-chosen")

    def move(self, direction: int) -> None:
        """Put the keyboard on the next or the previous prompt."""
        last = len(self._starters) - 1
        if last < 0:
            return
        start = -1 if direction > 0 else last + 1
        self.chosen = max(0, min(last, (start if self.chosen is None else self.chosen) + direction))

    def prompt_at(self, index: int | None) -> str | None:
        """The prompt with this index, or None."""
        if index is None or not 0 <= index < len(self._starters):
            return None
        return self._starters[index].prompt
