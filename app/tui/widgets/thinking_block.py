"""What an answer thought: live with its budget, then one line, in full when the reader wants it."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.events import Click
from textual.reactive import reactive, var
from textual.widgets import Static

from app import figures
from app.config import ShowThinking
from app.sanitise import Sanitiser, clean
from app.tui.bars import progress
from app.tui.lanes import Lanes
from app.tui.messages import ThoughtsToggled
from engine.protocol import Delta

LINE_PREVIEW = 3
"""Lines of the latest thoughts that the one-line view shows while they come."""
PREVIEW_CHARACTERS = 400
FULL_CHARACTERS = 6000
"""How much of them the full view shows while they come: each frame lays all of it out."""
BAR_WIDTH = 20
GAP = "  "
WIDE = 60
"""Columns from which the key that ends the thinking is explained."""


class ThinkingBlock(Vertical):
    """A line with tokens, budget and time, and the thoughts below it."""

    DEFAULT_CSS = """
    ThinkingBlock {
        height: auto; display: none; margin: 0 0 1 0;
        & > #thoughts { height: auto; display: none; color: $mull-thought; padding: 0 0 0 2; }
        & > #thoughts.-shown { display: block; }
        &.-begun { display: block; }
        &.-begun.-ended.-hidden { display: none; }
    }
    """

    view: reactive[ShowThinking] = reactive("line")
    live: reactive[bool] = reactive(True)
    tokens: reactive[int] = reactive(0)
    limit: reactive[int | None] = reactive(None)
    seconds: reactive[float] = reactive(0.0)
    standing: reactive[str] = reactive("")
    """How this answer stands among several, while they come."""
    begun: var[bool] = var(False, toggle_class="-begun")

    def __init__(self) -> None:
        super().__init__()
        self._sanitiser = Sanitiser()
        self._text = ""
        self._drawn = 0
        self._counted = True
        self.lanes: Lanes | None = None
        """Where several answers come of which one will be kept: each has a line while they do."""
        self._standings = ""

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="thoughts")

    def write(self, text: str) -> None:
        """Take more thoughts; they are drawn by the next `show`."""
        self._text += self._sanitiser.feed(text)
        self.begun = True

    def hear(self, delta: Delta) -> None:
        """Take more of one of several candidates; drawn by the next `show`."""
        assert self.lanes is not None
        self.lanes.hear(delta)
        self.tokens = self.lanes.tokens
        self.begun = True

    def finish(self, text: str, tokens: int | None, seconds: float | None, standings: str = "") -> None:
        """These are all the thoughts there were; None where nobody counted. `standings` tell how the
        answer was chosen among several.
        """
        self._text = clean(text).strip("\n")
        self._standings = standings
        self._counted = tokens is not None
        self.tokens, self.seconds, self.live = tokens or 0, seconds or 0.0, False
        self.begun = bool(self._text or tokens or standings)
        self.show()

    def show(self) -> bool:
        """Draw the block as it is now; returns whether it has more thoughts than before."""
        if not self.is_mounted or not self.begun:
            return False
        self.set_class(not self.live, "-ended")
        self.set_class(self.view == "hidden", "-hidden")
        self.query_one("#head", Static).update(self._head())
        thoughts = self.query_one("#thoughts", Static)
        text = self._visible()
        thoughts.set_class(bool(text), "-shown")
        thoughts.update(Content(text))
        length = len(self._text) if self.lanes is None or not self.live else self.tokens
        grown, self._drawn = length > self._drawn, length
        return grown

    def watch_view(self) -> None:
        self.show()

    def watch_live(self) -> None:
        self.show()

    def watch_limit(self) -> None:
        self.show()

    def watch_standing(self) -> None:
        self.show()

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(ThoughtsToggled())

    def _head(self) -> Content:
        opened = bool(self._visible())
        time = figures.seconds(self.seconds)
        if not self.live:
            cost = f" for {figures.count(self.tokens)} tokens · {time}" if self._counted else ""
            return Content.styled(f"{'▾' if opened else '▸'} Thought{cost}", "$mull-muted")
        used = figures.count(self.tokens)
        alone = self.limit is not None and self.lanes is None  # the limit is each one's
        count = f"{used}/{figures.count(self.limit or 0)}" if alone else f"{used} tok"
        head = Content.styled("▾ Thinking", "bold $mull-effort")
        timing = Content.styled(time, "$mull-muted")
        hint = Content.styled("^T answer now" if self.size.width >= WIDE else "^T", "$mull-muted")
        parts = [head, Content(count), timing, hint]
        room = self.size.width - len(GAP.join([*(part.plain for part in parts), ""]))
        if self.standing and len(self.standing) + len(GAP) + 3 <= room:
            parts.insert(2, Content.styled(self.standing, "$mull-effort"))
            room -= len(self.standing) + len(GAP)
        if self.limit is not None and self.lanes is None and room >= 3:
            parts.insert(2, progress(self.tokens / max(1, self.limit), min(BAR_WIDTH, room)))
        return Content(GAP).join(parts)

    def _visible(self) -> str:
        text = self._text.strip("\n")
        if self.live and self.lanes is not None:
            return self.lanes.text(self.size.width - 2) if self.view != "hidden" else ""
        if self.view == "full":
            return text[-FULL_CHARACTERS:] if self.live else f"{text}\n\n{self._standings}".strip("\n")
        if self.view == "line" and self.live:
            return "\n".join(text[-PREVIEW_CHARACTERS:].split("\n")[-LINE_PREVIEW:])
        return ""
