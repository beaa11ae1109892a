"""Answers recorded with their traces: in a session, an exported one, or as `mull ask --json` printed them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from app.errors import CommandError, reason
from app.sessions.export.json import Export
from app.sessions.store import Store
from app.sessions.tree import Tree
from engine.protocol import Answer, Message
from engine.protocol.trace import Trace

LARGEST = 512 * 2**20
"""Bytes of a file that is read."""


@dataclass(frozen=True)
class Recorded:
    """An answer with its trace, the turn that it is in a session, and what it answers."""

    turn: str
    answer: Answer
    trace: Trace
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Recording:
    """All that were found; `untraced` turns have answers that were recorded without a trace."""

    answers: tuple[Recorded, ...]
    untraced: tuple[str, ...] = ()


class _Kind(Struct):
    schema: Literal["mull.answer/1", "mull.export/1"]


def recorded(text: str, store: Store | None = None) -> Recording:
    """What a file's name, or a session's id or its beginning, means. Raises CommandError."""
    path = Path(text)
    try:
        if path.is_file():
            return _of_file(path)
    except (OSError, ValueError) as error:  # too long a name, or none at all
        raise CommandError(
            f"cannot read {text[:80]}: {reason(error) if isinstance(error, OSError) else error}"
        ) from error
    if "/" in text or path.suffix == ".json":
        raise CommandError(f"there is no file {text[:200]}", "a session goes by its id: see mull sessions")
    store = store or Store()
    return _of_tree(store.read(store.resolve(text)).tree)


def _of_file(path: Path) -> Recording:
    """Raises OSError, and CommandError where it is no such file."""
    if path.stat().st_size > LARGEST:
        raise CommandError(f"{path} is larger than {LARGEST // 2**20} MiB")
    data = path.read_bytes()
    try:
        if msgspec.json.decode(data, type=_Kind).schema == "mull.answer/1":
            return _of_answer(msgspec.json.decode(data, type=Answer))
        tree = Tree()
        for turn in msgspec.json.decode(data, type=Export).turns:
            tree.add(turn)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise CommandError(
            f"{path} is neither an answer nor an exported session: {cause}",
            "make one with: mull ask --json --trace, or mull export --format json",
        ) from error
    return _of_tree(tree)


def _of_answer(answer: Answer) -> Recording:
    if answer.trace is None:
        return Recording((), ("",))
    return Recording((Recorded("", answer, answer.trace, answer.trace.messages),))


def _of_tree(tree: Tree) -> Recording:
    found, untraced = [], []
    for turn in tree:
        if turn.answer is not None and turn.answer.trace is not None:
            trace = turn.answer.trace
            messages = trace.messages or tree.messages(turn.parent)
            found.append(Recorded(turn.id, turn.answer, trace, messages))
        elif turn.answer is not None:
            untraced.append(turn.id)
    return Recording(tuple(found), tuple(untraced))
