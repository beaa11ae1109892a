"""The command line as scripts and people meet it: the real program, its output and its exit statuses."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import pytest

from app import locations
from app.cli.main import COMMANDS
from app.sessions.recorder import Recorder
from app.sessions.store import Store
from engine.protocol import Answer, Finished, ModelSpec

MULL = [sys.executable, "-m", "app.cli.main"]
HOSTILE = "evil \x1b]0;owned\x07\x1b[2J\u202ename"


def mull(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MULL, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, **options
    )  # type: ignore[call-overload, no-any-return]


def on_a_terminal(*arguments: str, typed: bytes = b"", program: Sequence[str] = MULL) -> tuple[int, str]:
    """Run on a real terminal; the exit status and all that reached the screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(program[0], [*program, *arguments])
    os.write(terminal, typed)
    seen = b""
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # Linux says so where the other side is closed
            break
        if not chunk:
            break
        seen += chunk
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen.decode()


@pytest.fixture
def session(make_answer: Callable[..., Answer]) -> str:
    recorder = Recorder.create()
    recorder.user_turn(HOSTILE)
    turn = recorder.answer_turn(recorder.request(ModelSpec()))
    recorder.event(turn, Finished(answer=make_answer("It is irrational.")))
    recorder.close()
    return turn.request.id.split("-")[0] if turn.request else ""


def test_every_command_explains_itself() -> None:
    listed = mull("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        shown = mull(name, "--help")
        assert shown.returncode == 0 and "--debug" in shown.stdout and "--offline" in shown.stdout, name


def test_the_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert mull("--version").stdout == f"mull {version('mull')}\n"


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["nope"], 2, "mull: No such command 'nope'; see: mull --help"),
        (["sessions", "nope"], 2, "mull: No such command 'nope'; see: mull sessions --help"),
        (["export"], 2, "mull: Missing argument 'ID'; see: mull export --help"),
        (
            ["--model", "x", "ps"],
            2,
            "mull: --model belongs after the command: mull ps --model; see: mull --help",
        ),
        (["sessions", "show", "zz"], 1, "mull: no session begins with 'zz'; list them with: mull sessions"),
        (["profiles", "rtx-409"], 2, "mull: unknown profile 'rtx-409'; did you mean rtx-4090?"),
        ([], 1, "mull: the chat needs a terminal; in a pipe, use: mull ask -"),
        (["sessions", "show", HOSTILE], 1, "mull: no session begins with 'evil"),
    ],
)
def test_bad_input_is_one_clear_line_on_stderr(arguments: list[str], status: int, line: str) -> None:
    done = mull(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1 and "\x1b" not in done.stderr


def test_a_broken_setting_is_one_line_and_debug_shows_the_traceback() -> None:
    path = locations.config_file()
    path.parent.mkdir(parents=True)
    path.write_text("threads = 0\n")
    plain = mull("config")
    assert plain.returncode == 1 and plain.stderr.count("\n") == 1
    assert "threads is 0, but must be a whole number from 1 up" in plain.stderr
    assert "Traceback" in mull("config", "--debug").stderr


def test_sessions_are_listed_as_objects_with_id_and_name(session: str) -> None:
    (listed,) = json.loads(mull("sessions", "list", "--json").stdout)
    assert (listed["id"], listed["turns"], listed["model"]) == (session, 2, "tiny")
    assert listed["name"] == HOSTILE
    assert json.loads(mull("sessions", "--json").stdout) == [listed]


def test_names_cannot_steer_a_terminal_and_scripts_get_them_raw(session: str) -> None:
    for arguments in (["sessions"], ["sessions", "show", session], ["sessions", "list", "--json"]):
        status, seen = on_a_terminal(*arguments)
        assert status == 0 and "evil ⟨U+202E⟩name" in seen.replace("\\u001b]0;owned\\u0007\\u001b[2J", "")
        assert "\x1b]" not in seen and "\x1b[2J" not in seen and "\u202e" not in seen
    assert HOSTILE in mull("export", session).stdout


def test_answers_and_the_engine_as_json_cannot_steer_a_terminal(tmp_path: Path) -> None:
    model = tmp_path / "evil\u202ename"
    with resources.as_file(resources.files("assets") / "tiny") as bundled:
        shutil.copytree(bundled, model)
    for arguments in (["ask", "--json", "--model", str(model), "What is 1 + 1?"], ["ps", "--json"]):
        status, seen = on_a_terminal(*arguments)
        assert status == 0 and "evil⟨U+202E⟩name" in seen and "\u202e" not in seen


def test_a_search_shows_where_and_what(session: str) -> None:
    (found,) = json.loads(mull("sessions", "search", "IRRATIONAL", "--json").stdout)
    assert (found["id"], found["turn"], found["excerpt"]) == (session, "t2", "It is irrational.")
    assert mull("sessions", "search", "nowhere").stdout == "nothing found\n"


def test_deleting_asks_on_a_terminal_and_needs_yes_without_one(session: str) -> None:
    refused = mull("sessions", "delete", session)
    assert refused.returncode == 2 and "needs --yes" in refused.stderr
    status, seen = on_a_terminal("sessions", "delete", session, typed=b"n\n")
    assert status == 1 and "nothing was deleted" in seen
    assert Store().resolve("last") == session
    status, _ = on_a_terminal("sessions", "delete", session[:6], typed=b"y\n")
    assert status == 0 and Store().summaries() == []


def test_several_sessions_are_deleted_at_once_or_none(session: str) -> None:
    assert mull("sessions", "delete", "--yes", session, "zz").returncode == 1
    assert len(Store().summaries()) == 1
    assert mull("sessions", "delete", "--yes", session).stdout == f"deleted {session}\n"


def test_an_export_is_written_in_the_format_of_the_file_s_ending(session: str, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert mull("export", "last", "-o", str(path)).returncode == 0
    assert json.loads(path.read_text())["schema"] == "mull.export/1"
    again = mull("export", "last", "-o", str(path))
    assert again.returncode == 1 and "is there already; replace it with --force" in again.stderr
    assert mull("export", "last", "-o", str(path), "--force", "--format", "md").returncode == 0
    assert "It is irrational." in path.read_text()


def test_profiles_are_listed_with_this_machine_marked_and_first() -> None:
    listed = json.loads(mull("profiles", "--json").stdout)
    assert all(item["id"] and item["name"] for item in listed)
    assert [item["this_machine"] for item in listed] == [True] + [False] * (len(listed) - 1)
    assert "▸" in mull("profiles").stdout.splitlines()[1]
    shown = mull("profiles", "rtx-4090")
    assert "1.0 TB/s (datasheet)" in shown.stdout
    assert json.loads(mull("profiles", "RTX-4090", "--json").stdout)["id"] == "rtx-4090"


def test_the_settings_are_shown_with_where_each_comes_from() -> None:
    environment = {**os.environ, "MULL_THINK": "64", "MULL_MODLE": "x"}
    done = mull("config", "--json", env=environment)
    settings = {item["name"]: item for item in json.loads(done.stdout)}
    assert (settings["think"]["value"], settings["think"]["origin"]) == (64, "MULL_THINK")
    assert done.stderr == "mull: there is no setting MULL_MODLE; did you mean MULL_MODEL?\n"
    assert settings["keep_alive"]["value"] is None
    assert "as the engine was told last; 10m at first" in mull("config").stdout
    assert mull("config", "path").stdout == f"{locations.config_file()}\n"


def test_a_closed_pipe_ends_in_silence(session: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*MULL, "profiles"], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_encoding_without_our_marks_is_no_reason_to_fail_nor_to_spoil_an_export(session: str) -> None:
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    assert "? this machine" in mull("profiles", env=latin, encoding="latin-1").stdout
    assert "23 TFLOP ◐" in mull("sessions", "show", session, env=latin).stdout


def test_a_crash_of_the_terminal_app_is_a_failed_command() -> None:
    crashing = """
from app.cli.main import main
from app.tui.screens.chat import ChatScreen
ChatScreen.load_model = lambda screen: 1 / 0
main([])
"""
    status, seen = on_a_terminal(program=[sys.executable, "-c", crashing])
    assert status == 1 and "ZeroDivisionError" in seen


def test_the_program_starts_without_anything_heavy() -> None:
    code = "import sys; import app.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    for heavy in ("torch", "transformers", "textual", "msgspec", "numpy", "asyncio", "rich", "psutil"):
        assert heavy not in loaded
