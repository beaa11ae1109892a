"""A conversation under way: writes each thing to the journal first, then takes it into the tree.

The one object through which the command line and the terminal app keep what is said. Knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from app.errors import CommandError
from app.sessions.journal import SCHEMA, EventLine, Header, Journal, TurnLine, storable
from app.sessions.session import Session
from app.sessions.store import Store
from app.sessions.tree import Tree, Turn, parameters
from engine.build import mull_version
from engine.protocol import (
    AnswerRequest,
    Event,
    Failed,
    Finished,
    Limit,
    Message,
    ModelSpec,
    Overflow,
    Role,
    Sampling,
    Summary,
    Think,
)
from engine.protocol.settling import Settled
from engine.protocol.trace import Trace


def utc_now() -> datetime:
    """The time of day, to the millisecond."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


class Clock(NamedTuple):
    """Where the times come from: the hour for turns, a steady count of seconds for events."""

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic


class Recorder:
    """Records a conversation. `leaf` is the turn after which the next one comes; None at the very start."""

    def __init__(
        self,
        store: Store,
        session: Session | None = None,
        opened: Journal | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.leaf = session.latest if session else None
        self._store = store
        self._session = session
        self._journal = opened
        self._clock = clock or Clock()
        self._began: dict[str, float] = {}
        self._turns = opened.last_number() if opened else 0
        """The number of the turn written last."""

    @classmethod
    def create(cls, store: Store | None = None, clock: Clock | None = None) -> Recorder:
        """A new conversation; its file comes with the first turn, so that silence leaves nothing behind."""
        return cls(store or Store(), clock=clock)

    @classmethod
    def resume(cls, text: str, store: Store | None = None, clock: Clock | None = None) -> Recorder:
        """Go on with the session that `text` means (see Store.resolve), after its latest turn.

        Raises CommandError where there is none, another process has it, or a newer mull wrote it.
        """
        store = store or Store()
        session_id = store.resolve(text)
        opened = store.open(session_id)
        try:
            session = store.read(session_id)
            if session.read_only:
                raise CommandError(session.read_only, f"show it with: mull sessions show {session_id}")
            return cls(store, session, opened, clock)
        except CommandError:
            opened.close()
            raise

    @property
    def session(self) -> Session | None:
        """The session so far; None before the first turn."""
        return self._session

    @property
    def tree(self) -> Tree:
        """The turns so far, with the text that running answers have by now."""
        return self._session.tree if self._session else Tree()

    def messages(self) -> tuple[Message, ...]:
        """The conversation up to `leaf`, as the next request takes it."""
        return self._session.messages(self.leaf) if self._session else ()

    def summary(self) -> Summary | None:
        """The last summary of turns that a full context had no room for, for the next request."""
        return self.tree.summary(self.leaf)

    def go(self, turn_id: str | None) -> None:
        """Continue after this turn: to branch, to retry or to choose a sibling. None is the very start."""
        if turn_id is not None and turn_id not in self.tree:
            raise KeyError(turn_id)
        self.leaf = turn_id

    def system_turn(self, text: str) -> Turn:
        """Record an instruction to the model, the first turn of a path."""
        return self._said("system", text)

    def user_turn(self, text: str) -> Turn:
        """Record what the person said, after `leaf`."""
        return self._said("user", text)

    def request(
        self,
        spec: ModelSpec,
        *,
        method: str | None = None,
        think: Think = "max",
        budget: tuple[Limit, ...] = (),
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        confidence: bool = False,
        overflow: Overflow = "stop",
    ) -> AnswerRequest:
        """The request for an answer to the conversation up to `leaf`, under an id of its own."""
        session, _ = self._opened()
        return AnswerRequest(
            id=f"{session.id}-{self._next_id()}",
            spec=spec,
            messages=self.messages(),
            method=method,
            think=think,
            budget=budget,
            sampling=sampling or Sampling(),
            max_tokens=max_tokens,
            confidence=confidence,
            overflow=overflow,
            summary=self.summary(),
            trace=True,
        )

    def answer_turn(self, request: AnswerRequest) -> Turn:
        """Record that an answer was asked for, after `leaf`; its events follow."""
        session, opened = self._opened()
        line = TurnLine(
            id=self._next_id(),
            parent=self.leaf,
            role="assistant",
            created=self._clock.now(),
            request=parameters(request),
        )
        self._began[line.id] = self._clock.monotonic()
        return self._add(session, opened, line)

    def event(self, turn: Turn, event: Event | Settled) -> None:
        """Record an event of this answer, or where its thought settled. Call it before the event is drawn.

        Raises CommandError where the disk refuses; the event is taken into the tree nevertheless.
        """
        session, opened = self._opened()
        if isinstance(event, Finished) and event.answer.trace is not None:
            event = _without(session.tree.messages(turn.parent), event, event.answer.trace)
        line = EventLine(
            turn=turn.id, at=round(self._clock.monotonic() - self._began[turn.id], 4), event=event
        )
        session.apply(line)
        opened.append(line, durable=isinstance(event, Finished | Failed))

    def close(self) -> None:
        """Let another process have the session; nothing may be recorded any more."""
        if self._journal:
            self._journal.close()
            self._journal = None

    def _said(self, role: Role, text: str) -> Turn:
        session, opened = self._opened()
        line = TurnLine(
            id=self._next_id(),
            parent=self.leaf,
            role=role,
            created=self._clock.now(),
            content=storable(text),
        )
        return self._add(session, opened, line)

    def _add(self, session: Session, opened: Journal, line: TurnLine) -> Turn:
        self._turns += 1
        opened.append(line, durable=True)
        session.apply(line)
        self.leaf = line.id
        return session.tree[line.id]

    def _opened(self) -> tuple[Session, Journal]:
        """The session and its journal, begun where this is the first thing said."""
        if self._session is None:
            created = self._clock.now()
            self._journal = Journal.create(self._store.directory, created, mull_version())
            header = Header(schema=SCHEMA, id=self._journal.path.stem, created=created, mull=mull_version())
            self._session = Session(header)
        if self._journal is None:
            raise ValueError("this recorder is closed")
        return self._session, self._journal

    def _next_id(self) -> str:
        """Turns are numbered as they are written; a candidate's id stands under its answer's."""
        return f"t{self._turns + 1}"


def _without(messages: tuple[Message, ...], event: Finished, trace: Trace) -> Finished:
    """What is kept of an answer's trace: not its messages, where they are there as turns."""
    if trace.messages != messages:  # a method told the model more
        return event
    return replace(event, answer=replace(event.answer, trace=replace(trace, messages=())))
