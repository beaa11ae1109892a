"""The error that a person reads as one line. Knows nothing of the screen that it ends on."""

from __future__ import annotations


class CommandError(Exception):
    """What a person asked for cannot be done: the cause in one line, and the next step where there is one."""

    def __init__(self, message: str, hint: str = "", *, status: int = 1) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.status = status
        """Exit status of the command line."""


def reason(error: OSError) -> str:
    """The system's own words for what went wrong, without the number and the path."""
    return (error.strerror or str(error)).lower()
