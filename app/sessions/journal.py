"""A session's file: JSON lines, only ever appended, which are the truth about it."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from app.errors import CommandError, reason
from app.files import sync_directory
from app.sessions.tree import Parameters
from engine.protocol import Event, Role
from engine.protocol.settling import Settled

SCHEMA = "mull.session/1"
SUFFIX = ".jsonl"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letter looks like a digit
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


class Header(Struct, frozen=True, kw_only=True, tag_field="line", tag="header"):
    """First line: what wrote the file."""

    schema: str
    id: str
    created: datetime
    mull: str


class TurnLine(Struct, frozen=True, kw_only=True, tag_field="line", tag="turn"):
    """A turn began; an assistant's is filled by the events under its id."""

    id: str
    parent: str | None
    role: Role
    created: datetime
    content: str = ""
    request: Parameters | None = None


class EventLine(Struct, frozen=True, kw_only=True, tag_field="line", tag="event"):
    """An event of a turn's answer, or what was found out later, `at` seconds after the turn began."""

    turn: str
    at: float
    event: Event | Settled


Line = Header | TurnLine | EventLine

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)
_EVENT_START = _encoder.encode({"line": "event"})[:-1]
_TURN_NUMBER = re.compile(rb'"(?:id|turn)":"t(\d{1,9})[".]')
_lone_surrogates = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """Text that UTF-8 can hold: what a terminal could not decode becomes U+FFFD."""
    return _lone_surrogates.sub("\ufffd", text)


def new_id(now: datetime) -> str:
    """Nine characters that sort by time: seven of thirty-seconds since 2025, two of chance."""
    ticks = int((now - _EPOCH).total_seconds() * 32)
    time = "".join(_ALPHABET[ticks >> shift & 31] for shift in range(30, -1, -5))
    return time + secrets.choice(_ALPHABET) + secrets.choice(_ALPHABET)


class Journal:
    """A session's file, open for appending by this process alone."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        self._torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"

    @classmethod
    def create(cls, directory: Path, now: datetime, version: str) -> Journal:
        """Begin a session under a new id. Raises CommandError where the disk refuses."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for _ in range(100):
                session_id = new_id(now)
                path = directory / f"{session_id}{SUFFIX}"
                try:
                    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
                    break
                except FileExistsError:
                    continue
            else:
                raise CommandError(f"no free session id in {directory}", "try again")
        except OSError as error:
            raise CommandError(f"cannot keep sessions in {directory}: {reason(error)}") from error
        _lock(descriptor, session_id)
        journal = cls(path, descriptor)
        journal.append(Header(schema=SCHEMA, id=session_id, created=now, mull=version), durable=True)
        sync_directory(directory)
        return journal

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Go on with a session. Raises CommandError where another process has it or the disk refuses."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise CommandError(f"cannot open session {path.stem}: {reason(error)}") from error
        _lock(descriptor, path.stem)
        return cls(path, descriptor)

    def append(self, line: Line, *, durable: bool = False) -> None:
        """Write a line through to the system, so that the death of this process cannot lose it.

        `durable` also waits for the disk. Raises CommandError where the disk refuses; a later line is then
        begun anew, so that half a line costs itself alone.
        """
        data = _encoder.encode(line) + b"\n"
        if self._torn:
            data = b"\n" + data
        try:
            self._torn = True
            while data:
                data = data[os.write(self._descriptor, data) :]
            self._torn = False
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            raise CommandError(f"cannot write session {self.path.stem}: {reason(error)}") from error

    def last_number(self) -> int:
        """The largest number of a turn that a line tells, read whole or damaged; 0 where there is no turn.

        A damaged line that does not tell is counted as a turn. Raises CommandError.
        """
        largest = others = 0
        try:
            with self.path.open("rb") as file:
                for data in file:
                    others += not data.startswith(_EVENT_START)
                    if told := _TURN_NUMBER.search(data):
                        largest = max(largest, int(told[1]))
        except OSError as error:
            raise CommandError(f"cannot read session {self.path.stem}: {reason(error)}") from error
        return max(largest, others - 1)  # one of them is the header

    def delete(self) -> None:
        """Remove the session for good."""
        try:
            self.path.unlink()
            sync_directory(self.path.parent)
        except OSError as error:
            raise CommandError(f"cannot delete session {self.path.stem}: {reason(error)}") from error
        self.close()

    def close(self) -> None:
        """Let another process have the session."""
        os.close(self._descriptor)


def _lock(descriptor: int, session_id: str) -> None:
    """Be the only writer; the system lets go of the lock when the process ends, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink > 0:
            return
        message, hint = f"session {session_id} has just been deleted", "list the others with: mull sessions"
    except BlockingIOError:
        message, hint = f"session {session_id} is open in another mull", "close it there first"
    except OSError as error:
        message, hint = f"cannot lock session {session_id}: {reason(error)}", ""
    os.close(descriptor)
    raise CommandError(message, hint)


def lines(path: Path, *, events: bool = True) -> Iterator[Line | None]:
    """The file's lines in order; None for each damaged one.

    Lines and events of kinds that this version does not know are left out, and so is a torn last line.
    Raises OSError.
    """
    with path.open("rb") as file:
        for data in file:
            if not events and data.startswith(_EVENT_START):
                continue
            try:
                yield _decoder.decode(data)
            except msgspec.ValidationError:
                continue
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                if data.endswith(b"\n") and data.strip():
                    yield None
