"""Runs Python that nobody vouches for: without network, environment or the person's files, within limits.

Knows no model. What shuts it in is Linux's own (namespaces, a root of its own, rlimits), set up by
`sandbox_launch`; where the system does not permit that, nothing is run and the reason is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "error", "timeout", "memory", "output", "refused"]
"""How code ended: by itself, with an exception or another exit status, at its limit of time, for want of
memory, by saying too much, or not at all, for it was not run.
"""

STOPS = frozenset({signal.SIGXCPU, signal.SIGKILL})
"""Signals by which the limit of processor time ends a process."""


@dataclass(frozen=True)
class Limits:
    """What code may take. `memory` is each process's address space, in bytes; `seconds` bound the time that
    passes and each process's processor time; `file_bytes` all that is written to files; `output` the
    characters that are read of what it prints.
    """

    seconds: float = 10.0
    memory: int = 512 * 1024**2
    file_bytes: int = 16 * 1024**2
    processes: int = 8
    output: int = 64 * 1024


@dataclass(frozen=True)
class Ran:
    """What became of code. What it printed is cut at the limit; of a refusal, `stderr` says why."""

    status: Status
    stdout: str
    stderr: str
    seconds: float


async def run_python(code: str, *, stdin: str = "", limits: Limits = Limits()) -> Ran:
    """Run code as a script, with the standard library and no other packages, in an empty folder.

    It ends, and with it all that it started, before this returns or is cancelled.
    """
    if sys.platform != "linux":
        return _refused(f"it can be shut in on Linux only, and this is {sys.platform}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mull-code-") as folder:
        _write(Path(folder, "main.py"), code)
        told, tell = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("sandbox_launch.py"))),
                *(folder, str(tell), *map(str, astuple(limits))),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={},
                cwd=folder,
                start_new_session=True,
                pass_fds=(tell,),
            )
        except OSError as error:
            os.close(told)
            return _refused(f"no process can be started ({error.strerror})")
        finally:
            os.close(tell)
        try:
            ended, out, err = await _watched(process, stdin, limits)
            verdict = os.read(told, 1000).decode() if ended == "ok" else ""
        finally:
            os.close(told)
    status, note = _judged(verdict.partition("\n")[0], err) if ended == "ok" else (ended, "")
    return _refused(note) if status == "refused" else Ran(status, out, err + note, time.monotonic() - began)


def _write(path: Path, code: str) -> None:
    path.write_text(code, encoding="utf-8", errors="replace")


def _refused(why: str) -> Ran:
    return Ran("refused", "", f"code is not run: {why}", 0.0)


def _judged(verdict: str, err: str) -> tuple[Status, str]:
    """The status of code that ended by itself, and why it was refused or what to add to what it said."""
    word, _, rest = verdict.partition(" ")
    if word == "refused":
        return "refused", rest
    if word == "signal" and int(rest) in STOPS:
        return "timeout", ""
    if word == "signal":
        return "error", f"killed by signal {rest}\n"
    if word == "exit" and rest == "0":
        return "ok", ""
    if not word:
        return "refused", err.strip().rpartition("\n")[2] or "what shuts it in has failed"
    last = err.rstrip().rpartition("\n")[2]
    return ("memory" if last.startswith("MemoryError") else "error"), ""


async def _watched(
    process: asyncio.subprocess.Process, stdin: str, limits: Limits
) -> tuple[Literal["ok", "timeout", "output"], str, str]:
    """Feed and read a process until it ends or has to be ended, as the first word says."""
    assert process.stdin and process.stdout and process.stderr
    out, err = bytearray(), bytearray()
    room = limits.output * 4  # bytes of UTF-8 at most
    over = asyncio.Event()
    parts: list[asyncio.Task[None] | asyncio.Task[int]] = [
        asyncio.create_task(_feed(process.stdin, stdin)),
        asyncio.create_task(_drain(process.stdout, out, room, over)),
        asyncio.create_task(_drain(process.stderr, err, room, over)),
        asyncio.create_task(process.wait()),
    ]
    ended = asyncio.gather(*parts)
    too_much = asyncio.create_task(over.wait())
    try:
        either: set[asyncio.Future[Any]] = {ended, too_much}
        done, _ = await asyncio.wait(either, timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        status: Literal["ok", "timeout", "output"] = (
            "output" if too_much in done else "ok" if ended in done else "timeout"
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        too_much.cancel()
        await asyncio.shield(asyncio.gather(*parts, return_exceptions=True))
    texts = [bytes(one).decode("utf-8", "replace") for one in (out, err)]
    if any(len(text) > limits.output for text in texts):
        status = "output"
    return status, texts[0][: limits.output], texts[1][: limits.output]


async def _feed(stream: asyncio.StreamWriter, text: str) -> None:
    try:
        stream.write(text.encode("utf-8", "replace"))
        await stream.drain()
        stream.close()
        await stream.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it need not read what it is given


async def _drain(stream: asyncio.StreamReader, kept: bytearray, room: int, over: asyncio.Event) -> None:
    while chunk := await stream.read(65536):
        kept += chunk[: max(0, room - len(kept))]
        if len(kept) >= room:
            over.set()
