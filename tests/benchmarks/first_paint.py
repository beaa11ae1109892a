"""Seconds from starting `mull` to its first painted screen, on a pseudo-terminal: first_paint.py [--runs N].

A paint is the first frame that shows the prompt. The engine is not awaited, and torch not imported.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))
from cli import MULL, Home

SIGN = b"mull"
LIMIT_S = 30.0


def first_paint(home: Home) -> float:
    """Start the app on a terminal of 100x30 and wait until it has drawn its name."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(home.environment, TERM="xterm-256color")
        os.execv(MULL, [str(MULL)])
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    seen = b""
    try:
        while SIGN not in seen and time.perf_counter() - began < LIMIT_S:
            if select.select([terminal], [], [], 0.01)[0]:
                seen += os.read(terminal, 65536)
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(terminal)
        os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        try:
            first_paint(home)
            seconds = [first_paint(home) for _ in range(runs)]
        finally:
            home.close()
    middle = statistics.median(seconds)
    print(f"first paint {middle:.3f} s, {min(seconds):.3f} to {max(seconds):.3f} ({runs} runs)")


if __name__ == "__main__":
    main()
