"""The conversation: its turns, the one that is selected, and following the end."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.containers import VerticalScroll
from textual.reactive import var
from textual.widget import Widget

from app.tui.commands import COMMANDS
from app.tui.messages import EndFollowed, TranscriptLeft, TurnActedOn
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.left_out import LeftOut
from app.tui.widgets.user_turn import UserTurn

_ACTIONS = {key: c.action for c in COMMANDS if c.where == "transcript" for key in c.keys}


def is_typing(event: events.Event) -> bool:
    """Whether this writes something: text that is no command of the transcript."""
    if isinstance(event, events.Key):
        return event.is_printable and event.key not in _ACTIONS
    return isinstance(event, events.Paste)


class Transcript(VerticalScroll):
    """Follows the end until the reader scrolls up; focused, its keys act on the selected turn."""

    DEFAULT_CSS = """
    Transcript {
        height: 1fr; width: 1fr; padding: 0 1; layout: stream; scrollbar-size-vertical: 1;
        align: left bottom;
        &.-empty { layout: vertical; align: center middle; }
        &:focus { background-tint: transparent; }
        & > .turn.-left-out { opacity: 60%; }
        & > .turn.-left-out:ansi { opacity: 100%; text-style: dim; }
        & > .turn.-selected { background: $surface; border-left: outer $mull-effort; }
    }
    """

    selected: var[str | None] = var(None)
    """Id of the turn that the keys act on."""

    def __init__(self) -> None:
        super().__init__()
        self._followed = True

    @property
    def turns(self) -> list[UserTurn | AnswerTurn]:
        return [child for child in self.children if isinstance(child, UserTurn | AnswerTurn)]

    @property
    def follows(self) -> bool:
        """Whether new text is scrolled into view."""
        return self._anchored and not self._anchor_released

    async def put(self, *content: Widget) -> None:
        """Show this and nothing else, from its end."""
        self.selected = None
        await self.remove_children()
        await self.mount_all(content)
        empty = not self.turns
        self.set_class(empty, "-empty")
        self.anchor(not empty)

    async def add(self, *content: Widget) -> None:
        """Show this below the rest, and follow it."""
        await self.mount_all(content)
        self.set_class(not self.turns, "-empty")
        self.anchor(bool(self.turns))

    async def mark_left_out(self, names: Sequence[str], summarized: bool) -> None:
        """Show which turns the last answer was not told of, for want of context."""
        await self.query(LeftOut).remove()
        for turn in self.turns:
            turn.set_class(turn.turn_id in names, "-left-out")
        if names and self.turns:
            marked = [turn for turn in self.turns if turn.turn_id in names]
            line = LeftOut(len(names), summarized)
            if marked:
                await self.mount(line, after=marked[-1])
            else:
                await self.mount(line, before=self.turns[0])

    def turn(self, turn_id: str) -> UserTurn | AnswerTurn | None:
        """The widget of this turn, if it is shown."""
        return next((turn for turn in self.turns if turn.turn_id == turn_id), None)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self.follows != self._followed:
            self._followed = self.follows
            self.post_message(EndFollowed(self._followed))

    def watch_selected(self) -> None:
        for turn in self.turns:
            turn.set_class(turn.turn_id == self.selected, "-selected")

    def on_focus(self) -> None:
        if self.selected is None and self.turns:
            self.selected = self.turns[-1].turn_id

    def on_blur(self) -> None:
        self.selected = None

    def _move(self, step: int) -> None:
        turns = self.turns
        if not turns:
            return
        ids = [turn.turn_id for turn in turns]
        at = ids.index(self.selected) if self.selected in ids else len(ids)
        to = max(0, min(len(ids) - 1, at + step))
        self._select(turns[to])

    def _select(self, turn: Widget) -> None:
        assert isinstance(turn, UserTurn | AnswerTurn)
        self.selected = turn.turn_id
        self.scroll_to_widget(turn, animate=False, top=turn.outer_size.height > self.size.height)

    def action_next_turn(self) -> None:
        self._move(+1)

    def action_previous_turn(self) -> None:
        self._move(-1)

    def action_first_turn(self) -> None:
        self._move(-len(self.turns))

    def action_last_turn(self) -> None:
        self._move(len(self.turns))
        self.anchor()

    def _act(self, action: str) -> None:
        if self.selected is not None:
            self.post_message(TurnActedOn(self.selected, action))

    def action_copy_turn(self) -> None:
        self._act("copy")

    def action_retry_turn(self) -> None:
        self._act("retry")

    def action_previous_sibling(self) -> None:
        self._act("previous")

    def action_next_sibling(self) -> None:
        self._act("next")

    def action_receipt_turn(self) -> None:
        self._act("receipt")

    def action_help_turn(self) -> None:
        self._act("help")

    def action_leave_transcript(self) -> None:
        self.post_message(TranscriptLeft())

    async def on_key(self, event: events.Key) -> None:
        """The transcript's commands, taken in the order they were typed in, wherever the focus is by now."""
        action = _ACTIONS.get(event.key)
        if action is not None:
            event.stop()
            event.prevent_default()
            await self.run_action(action)
