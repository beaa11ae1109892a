"""The sandbox: whatever code does ends in a clear verdict, and reaches nothing outside."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import psutil
import pytest

from engine.thinking.sandbox import Limits, Status, run_python

pytestmark = pytest.mark.usefixtures("shut_in")
QUICK = Limits(seconds=2, processes=4, file_bytes=2**20, memory=256 * 2**20, output=1000)


async def test_code_reads_what_it_is_given_and_says_what_it_says() -> None:
    ran = await run_python("import math\nprint(math.factorial(int(input())), 'é')", stdin="5\n")
    assert (ran.status, ran.stdout, ran.stderr) == ("ok", "120 é\n", "")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("1/0", "error", "ZeroDivisionError"),
        ("raise SystemExit(3)", "error", ""),
        ("def", "error", "SyntaxError"),
        ("import os; os.kill(os.getpid(), 11)", "error", "killed by signal 11"),
        ("input(); input()", "error", "EOFError"),
        ("while True: pass", "timeout", ""),
        ("import time; time.sleep(60)", "timeout", ""),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "timeout", ""),
        ("bytearray(2**30)", "memory", "MemoryError"),
        ("while True: print('x' * 99)", "output", ""),
        ("import os\nwhile os.fork(): pass\ninput()", "error", "BlockingIOError"),
        ("open('one', 'wb').write(bytes(2**22))", "error", "OSError"),
        ("for i in range(9): open(str(i), 'wb').write(bytes(2**19))", "error", "No space left"),
        ("open('/usr/one', 'w')", "error", "Read-only"),
    ],
)
async def test_what_misbehaves_ends_with_a_verdict(code: str, status: Status, said: str) -> None:
    ran = await run_python(code, limits=QUICK)
    assert ran.status == status and said in ran.stderr, ran
    assert len(ran.stdout) <= QUICK.output and len(ran.stderr) <= QUICK.output


async def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)"
        socket.create_connection(server.getsockname(), 1).close()
        ran = await run_python(code, limits=QUICK)
    assert ran.status == "error" and "unreachable" in ran.stderr


async def test_neither_the_persons_files_nor_the_environment_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setenv("SECRET", "secret")
    code = f"""
import os
print([name for name in os.environ if name != 'LC_CTYPE'], os.listdir('.'))
print([os.path.exists(path) for path in ({str(tmp_path)!r}, {str(Path(__file__).parent)!r}, "/proc/1")])
"""
    ran = await run_python(code)
    assert ran.stdout.splitlines() == ["[] ['main.py']", "[False, False, False]"], ran


async def test_nothing_that_code_has_started_outlives_it() -> None:
    """A process that has left its group and holds no pipe is found by what it does: it waits for a minute."""
    before = {process.pid for process in psutil.process_iter()}
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    for pipe in 0, 1, 2:
        os.close(pipe)
    time.sleep(60)
print("begun")
"""
    assert (await run_python(code)).stdout == "begun\n"
    own = psutil.Process().children(recursive=True)
    left = [one for one in psutil.process_iter(["cmdline"]) if one.pid not in before]
    assert not own and not [one for one in left if "/box/main.py" in (one.info["cmdline"] or ())]


async def test_code_whose_reader_is_cancelled_is_ended() -> None:
    task = asyncio.create_task(run_python("import time; time.sleep(60)"))
    for _ in range(100):
        await asyncio.sleep(0.05)
        if len(psutil.Process().children(recursive=True)) == 3:
            break
    running = psutil.Process().children(recursive=True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running and not psutil.wait_procs(running, 5)[1]


async def test_where_it_cannot_be_shut_in_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ran = await run_python("print(1)")
    assert ran.status == "refused" and ran.stdout == "" and "Linux only" in ran.stderr
