"""Why a request is not answered: each in one line, with the next step. Knows nothing else."""

from __future__ import annotations

from typing import Literal


class UsageError(Exception):
    """The request contradicts itself or the model; one line, with the next step in `hint`."""

    code: Literal["usage", "fit", "overflow"] = "usage"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TooLong(UsageError):
    """The question does not fit into the context, whatever is left out of the conversation."""

    code = "fit"


class Overflowing(UsageError):
    """The conversation does not fit into the context, and nobody has said what may be left out."""

    code = "overflow"


class NoMemory(UsageError):
    """The backend has no memory for the prompt, not even after everything else gave way."""

    code = "fit"
