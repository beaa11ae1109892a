"""Follows a running answer from its events and keeps its part of the transcript up to date."""

from __future__ import annotations

from collections.abc import Callable

from app import figures
from app.sanitise import clean_line
from app.tui.conversation import Asked
from app.tui.effort import Effort
from app.tui.lanes import Lanes
from app.tui.widgets.answer_turn import AnswerTurn
from engine.protocol import (
    QUIET,
    Delta,
    Event,
    Failed,
    Finished,
    Loaded,
    Loading,
    Metered,
    More,
    Notice,
    Queued,
    Started,
    Voted,
)

Clock = Callable[[], float]
"""Seconds that only grow."""


class LiveAnswer:
    """What the screen knows of the answer that is running."""

    def __init__(self, view: AnswerTurn, asked: Asked, place: tuple[int, int], clock: Clock) -> None:
        self.view = view
        self.asked = asked
        self.stopping = False
        self._place = place
        self._clock = clock
        self._several = False
        """One of several answers will be kept: none is shown before that."""
        self._thinking_since: float | None = None
        self._room = 0
        """The most that the thinking limit can be raised to."""
        self._old_limit: int | None = None
        """The thinking limit before the reader changed it, which a sample under way may still show."""

    @property
    def thinking(self) -> bool:
        return self.view.state == "thinking"

    async def take(self, event: Event) -> None:
        """Show an event, or keep it for the next flush."""
        match event:
            case Loading(stage=stage):
                self.view.wait_for(f"{clean_line(stage)}; the answer follows")
            case Loaded():
                self.view.wait_for("the model is ready")
            case Queued(ahead=ahead):
                self.view.wait_for(f"{ahead} {'request' if ahead == 1 else 'requests'} before this one")
            case Started(thinking_limit=limit, thinking_room=room, candidates=candidates):
                self._room = room
                self._several = candidates > 1
                self.view.thinking.limit = limit
                if self._several:
                    self.view.thinking.lanes = Lanes()
                    self.view.thinking.standing = f"one of up to {candidates} answers"
                self.view.wait_for("reading the prompt")
            case Delta():
                self._say(event)
            case Metered(thinking_limit=limit):
                outdated, self._old_limit = limit == self._old_limit, None
                if not outdated:
                    self.view.thinking.limit = limit
            case Voted():
                self.view.thinking.standing = clean_line(figures.standing(event))
            case Notice(code=code, text=text) if code not in QUIET:
                self.view.notice(text)
                if code == "summarizing":
                    self.view.wait_for("summarizing; the answer follows")
            case Finished(answer=answer):
                await self.view.finish(answer, self._place)
            case Failed(code="overflow", message=message):
                await self.view.overflow(message)
            case Failed(message=message, hint=hint):
                await self.view.fail(message, hint)

    def _say(self, delta: Delta) -> None:
        if self._thinking_since is None and (delta.phase == "thinking" or self._several):
            self._thinking_since = self._clock()
        if self._several:
            self.view.hear(delta)
            return
        if delta.phase == "answer" and self.thinking:
            self.view.thinking.seconds = self._elapsed()
        self.view.write(delta.phase, delta.text, 0 if delta.forced else delta.tokens)

    async def flush(self) -> bool:
        """Draw what has arrived; returns whether anything had."""
        return await self.view.flush(self._elapsed())

    def _elapsed(self) -> float:
        """Seconds of thinking so far."""
        return 0.0 if self._thinking_since is None else self._clock() - self._thinking_since

    def change_budget(self, direction: int, effort: Effort) -> More | None:
        """The control that moves the running budget a step; None where it is at its end."""
        limit = self.view.thinking.limit
        if limit is None:
            return None
        change = min(effort.step_at(limit, direction), self._room - limit)
        if change * direction <= 0:
            return None
        self._old_limit, self.view.thinking.limit = limit, limit + change
        return More(tokens=change)
