"""The process in which checkpoints are made: `python -m engine.quantize`.

Reads one request (a line of JSON) from standard input and writes events (a line each) to standard output. It
ends when standard input does: whoever asked is gone, or does not want it any more.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import msgspec

from engine.protocol.messages import Failed
from engine.protocol.quantize import QuantizeEvent, decode_request, encode_line

INTERRUPTED = 130


def main() -> int:
    """Serve the one request; the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no event

    def emit(event: QuantizeEvent) -> None:
        events.write(encode_line(event) + b"\n")

    try:
        request = decode_request(sys.stdin.buffer.readline())
        threading.Thread(target=_watch, daemon=True).start()
        from engine.quantize.job import run

        emit(run(request, emit))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        emit(Failed(code="usage", message=f"unreadable request: {error}"))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return INTERRUPTED
    return 0


def _watch() -> None:
    """Interrupt the work when standard input ends."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
