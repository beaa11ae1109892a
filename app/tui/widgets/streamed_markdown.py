"""Markdown that arrives piece by piece: finished blocks are rendered, the live tail is plain text."""

from __future__ import annotations

import asyncio

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Markdown, Static

from app.sanitise import Sanitiser, clean
from app.tui.block_commit import BlockCommit

TAIL_LINES = 60
"""Until it is closed, a long code fence shows its last lines only: redrawing it all would grow with it."""
TAIL_CHARACTERS = 6000


def make_parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough; HTML stays visible text, a line break stays a line break."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.core.ruler.push("keep_breaks", _keep_breaks)
    return parser


def _keep_breaks(state: StateCore) -> None:
    """Models put the steps of a calculation on lines of their own and mean it."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


class StreamedMarkdown(Vertical):
    """Text from a model, sanitized on its way in."""

    DEFAULT_CSS = """
    StreamedMarkdown { height: auto; width: 1fr; }
    StreamedMarkdown > Markdown { padding: 0; margin: 0; }
    StreamedMarkdown MarkdownFence { background: $surface; margin: 0 0 1 0; }
    StreamedMarkdown MarkdownFence > Label { padding: 0 2; }
    StreamedMarkdown > #tail { height: auto; width: 1fr; display: none; }
    StreamedMarkdown > #tail.-shown { display: block; }
    StreamedMarkdown > #tail.-code { color: $mull-code; background: $surface; padding: 0 2; margin: 0; }
    """

    def __init__(self, text: str = "", *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._initial = clean(text)
        self._sanitiser = Sanitiser()
        self._blocks = BlockCommit()
        self._arrived: list[str] = []
        self._committed = self._initial
        self._drawing = asyncio.Lock()
        """The timer's flush and the final update come from different tasks."""

    def compose(self) -> ComposeResult:
        yield Markdown(self._initial, open_links=False, parser_factory=make_parser)
        yield Static(id="tail")

    def write(self, text: str) -> None:
        """Take a piece of text; it is drawn by the next flush."""
        self._arrived.append(text)

    async def flush(self) -> bool:
        """Draw what has arrived; returns whether there was anything."""
        async with self._drawing:
            if not self._arrived:
                return False
            text = self._sanitiser.feed("".join(self._arrived))
            self._arrived.clear()
            blocks = self._blocks.feed(text)
            with self.app.batch_update():
                if blocks:
                    self._committed += blocks
                    await self.query_one(Markdown).append(blocks)
                self._show_tail()
            return True

    async def finish(self, text: str) -> None:
        """Show exactly this text, the streamed blocks kept where they agree with it."""
        final = clean(text)
        markdown = self.query_one(Markdown)
        async with self._drawing:
            self._arrived.clear()
            self._blocks = BlockCommit()
            with self.app.batch_update():
                if not final.startswith(self._committed):
                    await markdown.update(final)
                elif rest := final[len(self._committed) :]:
                    await markdown.append(rest)
                self._committed = final
                self._show_tail()

    def _show_tail(self) -> None:
        tail = self.query_one("#tail", Static)
        code = self._blocks.open_code
        shown = self._blocks.tail if code is None else code
        shown = "\n".join(shown[-TAIL_CHARACTERS:].split("\n")[-TAIL_LINES:]).rstrip("\n")
        tail.set_class(bool(shown), "-shown")
        tail.set_class(code is not None, "-code")
        tail.update(Content(shown))
