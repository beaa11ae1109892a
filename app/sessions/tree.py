"""The turn tree: a conversation is a path through it, a candidate or a retry is a sibling. Knows no file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from msgspec import Struct

from engine.protocol import (
    Answer,
    AnswerRequest,
    Message,
    ModelSpec,
    Overflow,
    Role,
    Sampling,
    Summary,
    Think,
)

Status = Literal["complete", "stopped", "interrupted", "failed"]


class Parameters(Struct, frozen=True, kw_only=True):
    """How an answer was asked for: an AnswerRequest without what the path tells, messages and summary."""

    id: str
    spec: ModelSpec
    method: str | None = None
    think: Think = "max"
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    confidence: bool = False
    overflow: Overflow = "stop"


def parameters(request: AnswerRequest) -> Parameters:
    """The request without its messages and its summary."""
    return Parameters(
        id=request.id,
        spec=request.spec,
        method=request.method,
        think=request.think,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        confidence=request.confidence,
        overflow=request.overflow,
    )


class Turn(Struct, frozen=True, kw_only=True):
    """What one side said. An answer is `interrupted` until it has ended, however it ends."""

    id: str
    parent: str | None
    role: Role
    content: str
    thinking: str = ""
    created: datetime
    status: Status = "complete"
    request: Parameters | None = None
    answer: Answer | None = None
    error: str = ""
    """Why there is no answer, in one line, where it failed."""


class Tree:
    """Turns by their ids, in the order in which they were made; a parent comes before its children."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._children: dict[str | None, list[str]] = {None: []}

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self._turns.values())

    def __contains__(self, turn_id: object) -> bool:
        return turn_id in self._turns

    def __getitem__(self, turn_id: str) -> Turn:
        return self._turns[turn_id]

    def add(self, turn: Turn) -> None:
        """Add a turn under its parent. Raises ValueError where its id is taken or its parent is not there."""
        if turn.id in self._turns:
            raise ValueError(f"there is a turn {turn.id} already")
        if turn.parent not in self._children:
            raise ValueError(f"turn {turn.id} has no parent {turn.parent}")
        self._turns[turn.id] = turn
        self._children[turn.parent].append(turn.id)
        self._children[turn.id] = []

    def replace(self, turn: Turn) -> None:
        """Put a turn in the place of the one with its id and parent."""
        self._turns[turn.id] = turn

    def path(self, leaf: str | None) -> tuple[Turn, ...]:
        """The turns from the first to this one."""
        path: list[Turn] = []
        while leaf is not None:
            turn = self._turns[leaf]
            path.append(turn)
            leaf = turn.parent
        return tuple(reversed(path))

    def messages(self, leaf: str | None) -> tuple[Message, ...]:
        """The path to `leaf` as an engine takes it, without exchanges that came to nothing.

        Chat templates want the roles to take turns, so a question whose answer has no text goes with it.
        """
        messages: list[Message] = []
        for turn in self.path(leaf):
            if turn.role == "assistant" and not turn.content:
                if messages and messages[-1].role == "user":
                    messages.pop()
            else:
                messages.append(
                    Message(role=turn.role, content=turn.content, thinking=turn.thinking, id=turn.id)
                )
        return tuple(messages)

    def summary(self, leaf: str | None) -> Summary | None:
        """The last one on the path to this turn that stood for turns which the context had no room for."""
        answers = (turn.answer for turn in reversed(self.path(leaf)) if turn.answer is not None)
        return next((answer.summary for answer in answers if answer.summary is not None), None)

    def children(self, turn_id: str | None) -> tuple[Turn, ...]:
        """What followed this turn; of None, the first turns."""
        return tuple(self._turns[child] for child in self._children[turn_id])

    def siblings(self, turn_id: str) -> tuple[Turn, ...]:
        """The turn and its alternatives, in the order in which they were made."""
        return self.children(self._turns[turn_id].parent)

    def place(self, turn_id: str) -> tuple[int, int]:
        """The turn's number among its siblings, from 1, and how many there are."""
        ids = self._children[self._turns[turn_id].parent]
        return ids.index(turn_id) + 1, len(ids)
