"""A session as its journal tells it: the same fold whether the lines are read back or just written."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from app.errors import CommandError, reason
from app.sessions import journal
from app.sessions.journal import EventLine, Header, TurnLine
from app.sessions.tree import Status, Tree, Turn
from engine.protocol import Answer, Delta, Event, Failed, Finished, Message
from engine.protocol.settling import Settled

NAME_LENGTH = 60
"""Characters of a session's name."""


class Session:
    """A conversation with all its branches, and how it came to be."""

    def __init__(self, header: Header) -> None:
        self.id = header.id
        self.created = header.created
        self.version = header.mull
        self.damaged = 0
        """Lines of the file that could not be read."""
        self.read_only = "" if header.schema == journal.SCHEMA else _newer(header)
        """Why nothing may be added, in one line; empty where it may."""
        self.latest: str | None = None
        """The turn written last: where a resumed conversation goes on."""
        self._tree = Tree()
        self._drafts: dict[str, _Draft] = {}

    @property
    def tree(self) -> Tree:
        """All turns, with the text that running answers have by now."""
        for turn_id, draft in self._drafts.items():
            self._tree.replace(draft.so_far(self._tree[turn_id]))
        return self._tree

    @property
    def name(self) -> str:
        """The first words of the person, raw."""
        first = next((turn.content for turn in self._tree if turn.role == "user"), "")
        return name_of(first)

    def messages(self, leaf: str | None) -> tuple[Message, ...]:
        """The path to `leaf` as an engine takes it; see `Tree.messages`."""
        return self.tree.messages(leaf)

    def apply(self, line: journal.Line) -> None:
        """Take in a line. Raises ValueError where it contradicts the ones before it."""
        match line:
            case TurnLine():
                self._tree.add(
                    Turn(
                        id=line.id,
                        parent=line.parent,
                        role=line.role,
                        content=line.content,
                        created=line.created,
                        status="interrupted" if line.role == "assistant" else "complete",
                        request=line.request,
                    )
                )
                self.latest = line.id
                if line.role == "assistant":
                    self._drafts[line.id] = _Draft()
            case EventLine(turn=turn_id, event=event):
                if turn_id not in self._tree:
                    raise ValueError(f"an event of the unknown turn {turn_id}")
                if isinstance(event, Settled):
                    self._settle(turn_id, event)
                elif turn_id in self._drafts:
                    self._take(turn_id, event)
            case Header():
                raise ValueError("a second header")

    def _take(self, turn_id: str, event: Event) -> None:
        match event:
            case Delta():
                self._drafts[turn_id].add(event)
            case Finished(answer=answer):
                self._finish(turn_id, answer)
            case Failed():
                draft = self._drafts.pop(turn_id)
                error = f"{event.message}; {event.hint}" if event.hint else event.message
                failed = replace(draft.so_far(self._tree[turn_id]), status="failed", error=error)
                self._tree.replace(failed)

    def _settle(self, turn_id: str, event: Settled) -> None:
        turn = self._tree[turn_id]
        if turn.answer is not None:
            self._tree.replace(replace(turn, answer=replace(turn.answer, settling=event.settling)))

    def _finish(self, turn_id: str, answer: Answer) -> None:
        draft = self._drafts.pop(turn_id)
        status: Status = "complete"
        if answer.finish in ("cancelled", "error"):
            status = "stopped" if answer.finish == "cancelled" else "failed"
        turn = replace(
            self._tree[turn_id],
            content=answer.answer,
            thinking=answer.thinking,
            status=status,
            answer=answer,
        )
        self._tree.replace(turn)
        for candidate in answer.candidates:
            if not candidate.kept:
                other = replace(
                    turn,
                    id=f"{turn_id}.{candidate.id}",
                    content=candidate.answer,
                    thinking=answer.thought(candidate.id) or draft.text(candidate.id, "thinking"),
                    status="complete",
                    answer=None,
                )
                self._tree.add(other)


class _Draft:
    """The text of an answer that has not ended, by candidate and phase."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], list[str]] = {}
        self._first: str | None = None

    def add(self, delta: Delta) -> None:
        self._parts.setdefault((delta.candidate, delta.phase), []).append(delta.text)
        self._first = self._first or delta.candidate

    def text(self, candidate: str, phase: str) -> str:
        return "".join(self._parts.get((candidate, phase), ()))

    def so_far(self, turn: Turn) -> Turn:
        """The turn with the text of the candidate that spoke first."""
        if self._first is None:
            return turn
        return replace(
            turn, content=self.text(self._first, "answer"), thinking=self.text(self._first, "thinking")
        )


def read(path: Path, *, events: bool = True) -> Session:
    """A session from its file; what is damaged in it is left out and counted. Raises CommandError.

    Without `events` the answers stay empty, and reading is quick.
    """
    session: Session | None = None
    damaged = 0
    try:
        for line in journal.lines(path, events=events):
            if session is None:
                if not isinstance(line, Header) or not line.schema.startswith("mull.session/"):
                    raise CommandError(f"{path} is not a session of mull")
                session = Session(line)
                continue
            try:
                if line is None:
                    raise ValueError("not readable")
                session.apply(line)
            except ValueError:
                damaged += 1
    except OSError as error:
        raise CommandError(f"cannot read session {path.stem}: {reason(error)}") from error
    if session is None:
        raise CommandError(
            f"session {path.stem} is empty", f"delete it with: mull sessions delete {path.stem}"
        )
    session.damaged = damaged
    return session


def name_of(text: str) -> str:
    """A session's name from what the person said first: one line of it, cut between words."""
    words = " ".join(text[: 4 * NAME_LENGTH].split())
    if len(words) <= NAME_LENGTH:
        return words
    return words[: NAME_LENGTH - 1].rsplit(" ", 1)[0] + "…"


def _newer(header: Header) -> str:
    return f"session {header.id} is of mull {header.mull}, a newer one: it can be read, not continued"
