"""The empty screen: what the model can do, prompts to begin with, and how to get another model."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from app.sanitise import clean_line
from app.tui.starters import Starter
from app.tui.widgets.offer import Offer, OfferLine

DEMONSTRATION_MODEL = "tiny"
ABOUT_TINY = (
    "This is mull's demonstration model: a few million parameters that came with the program. "
    "It works out arithmetic, little stories and puzzles step by step, and little else."
)
BRIEF_TINY = "does arithmetic and puzzles"
ABOUT_OTHER = "Runs on this machine. Set how much it may think with shift+tab; each answer says what it cost."
REAL_MODEL = "mull --model PATH|REPO"


class Welcome(Offer):
    """Shown while the conversation is empty."""

    DEFAULT_CSS = """
    Welcome {
        height: auto; width: 1fr; max-width: 78; padding: 1 2 0 2;
        & > Static { height: auto; width: 1fr; }
        & > OfferLine { margin: 0 0 1 0; }
        & > #about { margin: 0 0 1 0; }
        & > #real { color: $mull-muted; }
        &.-brief { padding: 0; }
        &.-brief > OfferLine, &.-brief > #about { margin: 0; height: 1; }
    }
    """

    def __init__(self, model: str, starters: tuple[Starter, ...]) -> None:
        super().__init__()
        self._model = model
        self._starters = starters

    def fit(self) -> None:
        super().fit()
        brief = self.has_class("-brief")
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
        for index, starter in enumerate(self._starters):
            hint = f"  {starter.hint}" if starter.hint else ""
            title = Content.assemble((starter.title, "bold"), (hint, "$mull-muted"))
            full = Content.assemble(title, f"\n{starter.prompt}")
            yield OfferLine(index, full, Content(starter.prompt))
        yield Static(id="real")

    def prompt_at(self, index: int | None) -> str | None:
        """The prompt with this index; None where nothing is chosen."""
        return None if index is None else self._starters[index].prompt
