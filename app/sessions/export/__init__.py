"""What can be made of a session: one file per format, found here by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.errors import CommandError, reason
from app.files import write_atomically
from app.sessions.export import json, markdown
from app.sessions.session import Session

FORMATS: dict[str, Callable[[Session], str]] = {"md": markdown.render, "json": json.render}


def render(session: Session, name: str) -> str:
    """The session as text of this format, raw: whoever shows it on a terminal sanitizes it."""
    return FORMATS[name](session)


def write(text: str, path: Path, *, force: bool = False) -> None:
    """Put an export into a file, whole or not at all. Raises CommandError.

    A file that is there is replaced only with `force`; a device or a pipe is written to.
    """
    try:
        target = path.expanduser().resolve()
        if target.is_dir():
            raise CommandError(f"{path} is a folder", "give the name of a file")
        if target.exists() and not target.is_file():
            target.write_text(text, "utf-8")
            return
        if target.exists() and not force:
            raise CommandError(f"{path} is there already", "replace it with --force")
        write_atomically(target, text.encode())
    except OSError as error:
        raise CommandError(f"cannot write {path}: {reason(error)}") from error
