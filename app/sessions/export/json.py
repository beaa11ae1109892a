"""A session as JSON, schema `mull.export/1`: every turn of every branch with its answer and receipt."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from app.sessions.session import Session
from app.sessions.tree import Turn
from engine.build import mull_version


class Described(Struct, frozen=True, kw_only=True):
    """Which session was exported; `latest` is the last turn, where a resumed conversation goes on."""

    id: str
    name: str
    created: datetime
    mull: str
    latest: str | None
    damaged_lines: int


class Export(Struct, frozen=True, kw_only=True):
    """What is written. A turn's `parent` makes the tree; until 1.0 fields are only added."""

    schema: Literal["mull.export/1"] = "mull.export/1"
    mull: str
    session: Described
    turns: tuple[Turn, ...]


def export(session: Session) -> Export:
    """The session as the struct that is written."""
    described = Described(
        id=session.id,
        name=session.name,
        created=session.created,
        mull=session.version,
        latest=session.latest,
        damaged_lines=session.damaged,
    )
    return Export(mull=mull_version(), session=described, turns=tuple(session.tree))


def render(session: Session) -> str:
    """The session as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(export(session)), indent=2).decode() + "\n"
