"""A conversation with an engine: what is asked and what comes back is recorded before anyone sees it.

Knows no widget.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from app.config import Settings
from app.errors import CommandError
from app.sessions.tree import Turn
from engine.protocol import (
    Answer,
    AnswerRequest,
    Control,
    Engine,
    Event,
    Failed,
    Finished,
    Limit,
    Message,
    ModelSpec,
    Notice,
    Overflow,
    Settling,
    Think,
)
from engine.protocol.preview import PreviewEvent, PreviewRequest
from engine.protocol.settling import Settled, SettlingRequest

if TYPE_CHECKING:
    from app.sessions.recorder import Recorder


@dataclass(frozen=True)
class Asked:
    """An answer that was asked for: its turn in the tree and the request to the engine."""

    turn: Turn
    request: AnswerRequest


class Conversation:
    """The current path through the turn tree, and the engine that answers it."""

    def __init__(
        self,
        new_recorder: Callable[[], Recorder],
        resumed: Recorder | None,
        engine: Engine,
        settings: Settings,
    ) -> None:
        self._new_recorder = new_recorder
        self._recorder = resumed
        self._engine = engine
        self._settings = settings
        self.overflow: Overflow = settings.overflow
        """What happens where this conversation outgrows the context: as set, until it is chosen here."""
        asked = [turn.request for turn in self.path if turn.request is not None]
        if asked and asked[-1].overflow != "stop":
            self.overflow = asked[-1].overflow

    @property
    def recorder(self) -> Recorder:
        """Where this conversation is kept; made when it is first needed."""
        if self._recorder is None:
            self._recorder = self._new_recorder()
        return self._recorder

    @property
    def spec(self) -> ModelSpec:
        """The model that answers."""
        return self._settings.spec()

    @property
    def path(self) -> tuple[Turn, ...]:
        """The turns of the person and of the model, up to where the conversation is."""
        if self._recorder is None:
            return ()
        return tuple(turn for turn in self.recorder.tree.path(self.recorder.leaf) if turn.role != "system")

    @property
    def last_answer(self) -> Answer | None:
        """The last one that there is on the path, with its receipt."""
        answers = (turn.answer for turn in reversed(self.path) if turn.answer is not None)
        return next(answers, None)

    def place(self, turn: Turn) -> tuple[int, int]:
        """The turn's number among its siblings, from 1, and how many there are."""
        return self.recorder.tree.place(turn.id)

    def say(self, text: str) -> Turn:
        """Record what the person says. Raises CommandError where it cannot be kept."""
        return self.recorder.user_turn(text)

    def ask(self, think: Think, method: str | None = None, budget: tuple[Limit, ...] = ()) -> Asked:
        """Record that the last turn is to be answered: with this method, or the one that follows from the
        thinking, and at most so much spent.

        Raises CommandError where it is no question of the person, or cannot be kept.
        """
        path = self.path
        if not path or path[-1].role != "user":
            raise CommandError("there is no question to answer", "write one first")
        settings = self._settings
        request = self.recorder.request(
            self.spec,
            method=method,
            think=think,
            budget=budget,
            sampling=settings.sampling(),
            max_tokens=settings.max_tokens,
            confidence=settings.confidence,
            overflow=self.overflow,
        )
        return Asked(self.recorder.answer_turn(request), request)

    def back_to_question(self, turn_id: str) -> bool:
        """Go to the person's turn that this one answers or is; False where there is none."""
        turn = self.recorder.tree[turn_id]
        question = turn.id if turn.role == "user" else turn.parent
        if question is None:
            return False
        self.recorder.go(question)
        return True

    def to_sibling(self, turn_id: str, step: int) -> bool:
        """Go to the variant before (-1) or after (+1) this turn, and to the end of what followed it."""
        tree = self.recorder.tree
        siblings = tree.siblings(turn_id)
        at = [turn.id for turn in siblings].index(turn_id) + step
        if not 0 <= at < len(siblings):
            return False
        leaf = siblings[at]
        while children := tree.children(leaf.id):
            leaf = children[-1]
        self.recorder.go(leaf.id)
        return True

    async def load(self) -> AsyncGenerator[Event, None]:
        """Get the model into memory; ends with Loaded or Failed, whatever happens."""
        try:
            async for event in self._engine.load(self.spec):
                yield event
        except Exception as error:
            yield _broken(error)

    async def preview(
        self, question: str, budget: tuple[Limit, ...] = ()
    ) -> AsyncGenerator[PreviewEvent, None]:
        """What an answer to this would cost here; nothing is recorded. Ends with Previewed or Failed."""
        before = self._recorder.messages() if self._recorder is not None else ()
        request = PreviewRequest(
            id=f"preview-{uuid4().hex}",
            spec=self.spec,
            messages=(*before, Message("user", question)),
            budget=budget,
        )
        try:
            async for event in self._engine.preview(request):
                yield event
        except Exception as error:
            yield _broken(error)

    async def answer(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """The answer's events, each recorded before it is handed on; ends with Finished or Failed."""
        warned = False
        async for event in self._events(asked.request):
            try:
                self.recorder.event(asked.turn, event)
            except CommandError as error:
                if not warned:
                    warned = True
                    yield Notice(code="not-kept", text=f"this answer is not being kept: {error}")
            yield event

    async def _events(self, request: AnswerRequest) -> AsyncGenerator[Event, None]:
        try:
            async for event in self._engine.answer(request):
                yield event
                if isinstance(event, Finished | Failed):
                    return
            yield Failed(code="engine", message="the engine ended without an answer", hint="try again")
        except Exception as error:
            yield _broken(error)

    async def settling(self, asked: Asked) -> Settling | None:
        """Where the thought of an answer settled, recorded with it; None where that was not found out: it is
        not to be, there is no thought, or the engine has something else to do.
        """
        answer = self.recorder.tree[asked.turn.id].answer
        if not self._settings.settling or answer is None or answer.trace is None or not answer.thinking:
            return None
        request = SettlingRequest(id=f"{asked.request.id}-settling", spec=asked.request.spec, answer=answer)
        try:
            async with aclosing(self._engine.settling(request)) as events:
                async for event in events:
                    if isinstance(event, Settled):
                        self.recorder.event(asked.turn, event)
                        return event.settling
        except Exception:  # nobody asked for it
            return None
        return None

    async def control(self, asked: Asked, control: Control) -> None:
        """Steer a running answer."""
        await self._engine.control(asked.request.id, control)

    def start_anew(self) -> None:
        """Leave this conversation as it is and begin another."""
        if self._recorder is not None:
            self._recorder.close()
        self._recorder = None
        self.overflow = self._settings.overflow

    async def close(self) -> None:
        """Let go of the session and of the engine."""
        if self._recorder is not None:
            self._recorder.close()
        await self._engine.close()


def _broken(error: Exception) -> Failed:
    """A failure that nobody foresaw still ends in one line."""
    return Failed(
        code="engine",
        message=f"the engine failed: {error or type(error).__name__}",
        hint="try again, or run mull stop first",
    )
