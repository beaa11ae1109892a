"""What can be wrong with a model that a person named, in one line with the next step. Knows no torch."""

from __future__ import annotations


class ModelError(Exception):
    """A model that cannot be loaded or used: `message` names the file and the cause, `hint` the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class DoesNotFit(ModelError):
    """A model that needs more memory than there is."""


class BadSpec(Exception):
    """The request names hardware that there is not; one line, with the next step in `hint`."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
