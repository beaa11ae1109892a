"""An answer in the transcript: its thoughts, its text, what it cost or why it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.getters import query_one
from textual.reactive import var
from textual.widgets import Static

from app import figures
from app.config import ShowThinking
from app.sanitise import clean_line
from app.sessions.tree import Turn
from app.tui.lanes import standings
from app.tui.widgets.failure import Failure
from app.tui.widgets.receipt_line import ReceiptLine
from app.tui.widgets.thinking_block import ThinkingBlock
from app.tui.widgets.ways_out import WaysOut
from engine.protocol import Answer, Delta, Phase, Settling

if TYPE_CHECKING:
    from app.tui.widgets.streamed_markdown import StreamedMarkdown

State = Literal["waiting", "thinking", "answering", "done", "stopped", "failed"]


class AnswerTurn(Vertical):
    """One answer, while it runs and afterwards."""

    DEFAULT_CSS = """
    AnswerTurn {
        height: auto; width: 1fr; margin: 0 0 1 0; padding: 0 1; border-left: blank;
        & > #wait { height: 1; display: none; color: $mull-muted; }
        &.-waiting > #wait { display: block; }
        & > #notice { height: auto; display: none; color: $warning; }
        & > #notice.-shown { display: block; }
        & > #settling { height: auto; display: none; color: $mull-muted; padding: 0 0 0 2; }
        & > #settling.-shown { display: block; }
    }
    """

    thinking = query_one(ThinkingBlock)
    state: var[State] = var("waiting")

    def __init__(self, turn_id: str, text: str = "") -> None:
        super().__init__(classes="turn")
        self.turn_id = turn_id
        self.text = text
        """The raw text so far."""
        self._notices: list[str] = []

    def compose(self) -> ComposeResult:
        yield Static(id="wait")
        yield ThinkingBlock()
        from app.tui.widgets.streamed_markdown import (
            StreamedMarkdown,
        )  # a tenth of a second: not before the first paint

        yield StreamedMarkdown(self.text, id="body")
        yield Static(id="notice")
        yield Failure()
        yield ReceiptLine()
        yield Static(id="settling")

    @property
    def body(self) -> StreamedMarkdown:
        return cast("StreamedMarkdown", self.query_one("#body"))

    def watch_state(self, before: State, now: State) -> None:
        self.remove_class(f"-{before}")
        self.add_class(f"-{now}")

    def wait_for(self, what: str) -> None:
        """Say what the answer is waiting for."""
        self.query_one("#wait", Static).update(Content(f"… {what}"))

    def write(self, phase: Phase, text: str, tokens: int) -> None:
        """Take a piece of the answer; drawn by the next `flush`."""
        if phase == "thinking":
            self.state = "thinking"
            self.thinking.write(text)
            self.thinking.tokens += tokens
        else:
            if self.state != "answering":
                self.thinking.live = False
                self.state = "answering"
            self.text += text
            self.body.write(text)

    def hear(self, delta: Delta) -> None:
        """Take a piece of one of several candidates, of which none is shown as the answer yet."""
        self.state = "thinking"
        self.thinking.hear(delta)

    async def flush(self, seconds: float) -> bool:
        """Draw what has arrived; `seconds` is how long the answer has been thinking, if it still is.

        Returns whether it grew.
        """
        if self.state == "thinking":
            if self.thinking.live:
                self.thinking.seconds = seconds
            return self.thinking.show()
        return await self.body.flush()

    async def finish(self, answer: Answer, place: tuple[int, int]) -> None:
        """Show the complete or stopped answer and its receipt."""
        others = {candidate.id for candidate in answer.candidates if not candidate.kept}
        if any(candidate.kept and answer.thought(candidate.id) for candidate in answer.candidates):
            others |= {step.candidate for step in answer.receipt.steps}
            others -= {node.id for node in answer.tree if node.kept}
        thoughts = [step for step in answer.receipt.steps if step.phase == "thinking"]
        seconds = sum(step.seconds for step in thoughts if step.candidate not in others)
        thinking = answer.receipt.tokens.thinking
        self.thinking.finish(answer.thinking, thinking, seconds, standings(answer))
        self.text = answer.answer
        await self.body.finish(answer.answer)
        self.query_one(ReceiptLine).show(answer, place)
        if answer.settling is not None:
            self.settle(answer.settling)
        self.state = "stopped" if answer.finish == "cancelled" else "done"

    async def restore(self, turn: Turn, place: tuple[int, int]) -> None:
        """Show an answer from an earlier time, however it ended."""
        if turn.answer is not None:
            await self.finish(turn.answer, place)
        elif turn.status == "failed":
            self.thinking.finish(turn.thinking, None, None)
            await self.fail(turn.error, "")
        else:
            self.thinking.finish(turn.thinking, None, None)
            self.break_off()

    async def fail(self, message: str, hint: str) -> None:
        """Keep what was said and show why there is no more."""
        self.thinking.live = False
        await self.body.finish(self.text)
        self.query_one(Failure).show(message, hint)
        self.state = "failed"

    async def overflow(self, message: str) -> None:
        """Show that the conversation no longer fits, and what can be done."""
        await self.fail(message, "")
        self.query_one(Failure).show(message, "", "Choose how to go on; the conversation is kept.")
        await self.mount(WaysOut(), after=self.query_one(Failure))

    def break_off(self) -> None:
        """Keep what was said of an answer that has no end."""
        self.thinking.live = False
        self.query_one(ReceiptLine).say("interrupted; what was said is kept")
        self.state = "stopped"

    def notice(self, text: str) -> None:
        """Show something more that the person should know about this answer."""
        self._notices.append(f"! {clean_line(text)}")
        line = self.query_one("#notice", Static)
        line.add_class("-shown")
        line.update(Content("\n".join(self._notices)))

    def settle(self, settling: Settling) -> None:
        """Show where its thought settled, and how to make that the budget."""
        offer = " · /settle allows the next as much" if settling.budget is not None else ""
        line = self.query_one("#settling", Static)
        line.add_class("-shown")
        line.update(Content(figures.settled(settling) + offer))

    def set_view(self, view: ShowThinking) -> None:
        """Show the thoughts this way."""
        self.thinking.view = view
