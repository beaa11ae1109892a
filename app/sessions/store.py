"""The folder of sessions: list, find, search, open and delete them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from app import locations
from app.errors import CommandError
from app.sessions import session
from app.sessions.journal import SUFFIX, Journal
from app.sessions.session import Session

EXCERPT = 60
"""Characters shown on each side of what a search found."""


class Summary(Struct, frozen=True, kw_only=True):
    """A session in a list. Its name is raw text."""

    id: str
    name: str
    created: datetime
    updated: datetime
    turns: int
    model: str | None
    """The model asked for last; None where nothing was asked."""


class Match(Struct, frozen=True, kw_only=True):
    """Where a search found its text."""

    id: str
    name: str
    turn: str
    excerpt: str


class Store:
    """The sessions in one folder, by default the user's. Holds nothing: each call looks at the disk."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or locations.sessions_directory()

    def summaries(self) -> list[Summary]:
        """All sessions that can be read, the one used last first."""
        found = []
        for path in self._paths():
            try:
                found.append(_summary(path))
            except (CommandError, FileNotFoundError):
                continue  # being created or deleted by another process, or no session at all
        return sorted(found, key=lambda summary: (summary.updated, summary.id), reverse=True)

    def resolve(self, text: str) -> str:
        """The id that `text` means: an id, the beginning of one alone, or `last`. Raises CommandError."""
        if text == "last":
            if newest := self.summaries():
                return newest[0].id
            raise CommandError("there is no session yet", "start one with: mull")
        ids = [path.stem for path in self._paths()]
        if text in ids:
            return text
        found = [session_id for session_id in ids if text and session_id.startswith(text.lower())]
        if not found:
            raise CommandError(f"no session begins with {text!r}", "list them with: mull sessions")
        if len(found) > 1:
            some = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
            raise CommandError(f"{len(found)} sessions begin with {text!r}: {some}", "give more of the id")
        return found[0]

    def read(self, session_id: str) -> Session:
        """A session with all its turns, as it is now. Raises CommandError."""
        return session.read(self._path(session_id))

    def open(self, session_id: str) -> Journal:
        """A session's journal, to go on with it. Raises CommandError where another process has it."""
        return Journal.open(self._path(session_id))

    def delete(self, session_id: str) -> None:
        """Remove a session for good. Raises CommandError where another process has it."""
        self.open(session_id).delete()

    def search(self, text: str) -> list[Match]:
        """The turns that contain `text`, whatever its case, in the sessions used last first."""
        wanted = text.casefold()
        matches = []
        for summary in self.summaries():
            try:
                turns = self.read(summary.id).tree
            except CommandError:
                continue
            for turn in turns:
                at = turn.content.casefold().find(wanted)
                if at >= 0:
                    excerpt = turn.content[max(0, at - EXCERPT) : at + len(text) + EXCERPT]
                    matches.append(
                        Match(
                            id=summary.id, name=summary.name, turn=turn.id, excerpt=" ".join(excerpt.split())
                        )
                    )
        return matches

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob(f"*{SUFFIX}"))

    def _path(self, session_id: str) -> Path:
        return self.directory / f"{session_id}{SUFFIX}"


def _summary(path: Path) -> Summary:
    found = session.read(path, events=False)
    asked = [turn.request.spec.model for turn in found.tree if turn.request]
    return Summary(
        id=found.id,
        name=found.name,
        created=found.created,
        updated=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        turns=len(found.tree),
        model=asked[-1] if asked else None,
    )
