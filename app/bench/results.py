"""Answers kept in a file as they come, so that a bench which was interrupted goes on where it was.

JSON Lines that are only ever appended to: a line for each cell with all that its answers depend on, then a
line for each answer. A model, a method or a setting that changes is another cell, and mixes with nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from app.bench.grid import Cell
from app.bench.tasks import BUNDLED
from app.errors import CommandError, reason
from engine.protocol.receipt import Environment, Finish, Method


class CellLine(Struct, frozen=True, kw_only=True, tag="cell", tag_field="line"):
    """A cell, and what its first answer ran on."""

    id: str
    cell: Cell
    environment: Environment
    parallel: int
    """Answers that were under way at once."""


class AnswerLine(Struct, frozen=True, kw_only=True, tag="answer", tag_field="line"):
    """An answer and what it cost. What was cached of its prompt is in `flops` as if it had been computed.

    `tokens` are all that were sampled or forced; `seconds` is its share of the forwards that it was in,
    `latency_s` the time from asking to its end, beside others. Joules are null where they are not known.
    """

    cell: str
    problem: str
    sample: int
    answer: str
    finish: Finish
    error: str = ""
    """Why there is no answer: it does not fit into the context."""
    prompt_tokens: int = 0
    tokens: int = 0
    path_tokens: int = 0
    """Of them, those that came one after another; 0 where nobody has counted them."""
    thinking_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    latency_s: float = 0.0
    flops: int = 0
    joules: float | None = None
    joules_low: float | None = None
    joules_high: float | None = None
    joules_method: Method = "unavailable"
    joules_source: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.cell, self.problem, self.sample

    @property
    def path(self) -> int:
        """Tokens one after another; what nobody has counted is taken to have come so."""
        return self.path_tokens or self.tokens


Line = CellLine | AnswerLine

_BEGIN = b'{"line"'
_decoder = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()


class Results:
    """What a results file holds. Of two answers to the same, the later counts."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.cells: dict[str, CellLine] = {}
        self.answers: dict[tuple[str, str, int], AnswerLine] = {}
        self.unread: list[int] = []
        """Numbers of the lines that are no lines of such a file."""
        self._file = file
        self._read()

    def _read(self) -> None:
        self._file.seek(0)
        whole, number = 0, 0
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):
                if not (raw.startswith(_BEGIN) or _BEGIN.startswith(raw)):
                    self.unread.append(number)
                break  # it was being written when the bench was killed
            whole += len(raw)
            try:
                self._take(_decoder.decode(raw))
            except msgspec.MsgspecError:
                self.unread.append(number)
        if self.unread and not self.answers:
            raise CommandError(f"{self.path} is no file of mull bench", "give another file to --out")
        self._file.seek(whole)
        self._file.truncate()

    def add(self, line: Line) -> None:
        """Keep a line, at once."""
        try:
            self._file.write(_encoder.encode(line) + b"\n")
            self._file.flush()
        except OSError as error:
            raise CommandError(f"cannot write {self.path}: {reason(error)}") from error
        self._take(line)

    def _take(self, line: Line) -> None:
        if isinstance(line, CellLine):
            self.cells[line.id] = line
        else:
            self.answers[line.key] = line


@contextmanager
def opened(path: Path) -> Iterator[Results]:
    """The results at a path, for this process alone to add to. Raises CommandError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {reason(error)}") from error
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"another bench is writing to {path}", "wait for it, or give another file to --out"
            ) from None
        results = Results(path, file)
        yield results
        os.fsync(file.fileno())


def default_name(tasks: Path | None) -> str:
    """The file's name where none is given: of the bundled tasks, or of a task file wherever it lies."""
    if tasks is None:
        return f"{BUNDLED}.jsonl"
    where = os.fsencode(tasks.absolute())
    return f"{tasks.stem[:60]}-{blake2b(where, digest_size=4).hexdigest()}.jsonl"
