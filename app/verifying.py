"""Reads who is to choose among several answers: a verifier's name, with the tests' file where it has one."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from app.errors import CommandError, reason
from engine.protocol import Verifier, VerifierName

MOST_BYTES = 1024 * 1024
"""Of a file of tests: it travels with the request."""


def verifier_name(value: object) -> str:
    """The text, where it names a verifier. Raises ValueError."""
    name, colon, file = str(value).partition(":")
    if name not in get_args(VerifierName) or (name == "tests") != bool(colon) or bool(colon) != bool(file):
        raise ValueError
    return str(value)


def read_verifier(text: str | None) -> Verifier | None:
    """The verifier of a text that `verifier_name` lets pass, with its tests. Raises CommandError."""
    if text is None:
        return None
    name, _, file = text.partition(":")
    return Verifier(cast(VerifierName, name), _tests(Path(file).expanduser()) if file else "")


def _tests(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise CommandError(f"the tests in {path} are longer than {MOST_BYTES // 2**20} MiB", status=2)
        return raw.decode("utf-8")
    except OSError as error:
        raise CommandError(f"cannot read the tests in {path}: {reason(error)}", status=2) from error
    except UnicodeDecodeError:
        raise CommandError(f"the tests in {path} are not text in UTF-8", status=2) from None
