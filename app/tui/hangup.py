"""Ends the app soon after its terminal has gone. Knows nothing of the app: what was said is on disk."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

GRACE_S = 3.0
"""For the app to leave by itself; but whatever draws may block for ever on a dead terminal."""


def leave_when_terminal_closes() -> None:
    """Watch standard input, where it is a terminal, for its hang-up."""
    if sys.__stdin__ is not None and sys.__stdin__.isatty():
        threading.Thread(target=_watch, args=(sys.__stdin__.fileno(),), daemon=True).start()


def _watch(terminal: int) -> None:
    poll = select.poll()
    poll.register(terminal, 0)  # a hang-up is reported without being asked for
    if any(event & select.POLLHUP for _, event in poll.poll()):
        time.sleep(GRACE_S)
        os._exit(128 + signal.SIGHUP)
