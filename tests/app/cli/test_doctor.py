"""The doctor says what is there, and its exit status is 1 where something keeps mull from working."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from app import locations

DOCTOR = [sys.executable, "-m", "app.cli.main", "doctor"]


def doctor(*arguments: str, status: int = 0, **variables: str) -> str:
    done = subprocess.run(
        [*DOCTOR, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env={**os.environ, "MULL_KERNELS": "off", **variables},  # building them takes seconds
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stderr
    return done.stdout


def found(status: int = 0, **variables: str) -> dict[str, Any]:
    diagnosis: dict[str, Any] = json.loads(doctor("--json", status=status, **variables))
    return diagnosis


def states(diagnosis: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(check["id"], check["state"]): check["text"] for check in diagnosis["checks"]}


def test_it_says_what_is_there_in_aligned_lines() -> None:
    lines = doctor().splitlines()
    assert {line[:7].strip() for line in lines} <= {"ok", "note"}
    begin = lines[0].index(version("mull"))
    assert all(line[begin - 1] == " " and line[begin] != " " for line in lines)
    for name, text in (
        ("torch", version("torch")),
        ("engine", "not running"),
        ("sessions", str(locations.sessions_directory())),
        ("engine log", str(locations.engine_log())),
        ("prompt store", f"0 pages, 0 B of 3.7 GiB, in {locations.prompts_directory()}"),
    ):
        assert any(line[9:].startswith(name) and text in line for line in lines), name


def test_it_loads_neither_torch_nor_transformers() -> None:
    script = (
        "import sys, app.cli.main as m\n"
        "try: m.main(['doctor'])\n"
        "except SystemExit: assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_it_runs_nothing_that_lies_in_the_working_directory(tmp_path: Path) -> None:
    foreign = tmp_path / "engine" / "nn" / "kernels"
    foreign.mkdir(parents=True)
    for folder in (foreign, *foreign.parents[:2]):
        (folder / "__init__.py").touch()
    (foreign / "build.py").write_text('open(\'ran\', \'w\'); print(\'{"kernels": "foreign", "text": ""}\')')
    command = [sys.executable, "-P", "-m", "app.cli.main", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "kernels" in done.stdout and "foreign" not in done.stdout
    assert not (tmp_path / "ran").exists()


def test_broken_settings_are_a_problem_among_everything_else() -> None:
    path = locations.config_file()
    path.parent.mkdir(parents=True)
    path.write_text("threads = 0\n")
    diagnosis = found(status=1)
    assert not diagnosis["usable"]
    assert "threads is 0, but must be" in states(diagnosis)["settings", "problem"]
    assert ("terminal", "ok") in states(diagnosis)
    path.write_text("thread = 1\n")
    assert "did you mean threads?" in states(found())["settings", "note"]


def test_a_runtime_folder_that_others_can_enter_is_a_problem() -> None:
    locations.runtime_directory().chmod(0o755)
    assert "is open to others; run: chmod 700" in states(found(status=1))["runtime", "problem"]


def test_a_folder_that_is_a_file_is_a_problem() -> None:
    locations.data_directory().parent.mkdir(parents=True)
    locations.data_directory().write_text("in the way")
    assert "cannot be written to" in states(found(status=1))["sessions", "problem"]


def test_an_unknown_profile_is_a_problem() -> None:
    assert "did you mean rtx-4090?" in states(found(status=1, MULL_PROFILE="rtx-409"))["hardware", "problem"]


def test_it_says_which_kernels_quantized_matrices_have() -> None:
    text = states(found(MULL_KERNELS="on"))["kernels", "ok"]
    assert text.split(", ")[0] in ("plain", "avx2", "avx512", "neon") and text.endswith(".so")


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"PATH": "/nowhere", "CC": ""}, "there is no C compiler (cc, gcc or clang); install one"),
        ({"CC": "false"}, "false failed: without a word; mend it"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "cannot be made: Not a directory; set XDG_CACHE_HOME"),
        ({"MULL_KERNELS": "off"}, "MULL_KERNELS is off; unset MULL_KERNELS"),
    ],
)
def test_without_kernels_mull_still_works_and_says_why(variables: dict[str, str], cause: str) -> None:
    text = states(found(**{"MULL_KERNELS": "on", **variables}))["kernels", "note"]
    assert text.startswith("torch's own operators do without, slower: ") and cause in text


@pytest.mark.parametrize(
    ("variables", "note"),
    [({"TERM": "dumb"}, "it cannot show the chat"), ({"PYTHONIOENCODING": "latin-1"}, "not set to UTF-8")],
)
def test_a_terminal_that_shows_too_little_is_noted(variables: dict[str, str], note: str) -> None:
    assert note in states(found(**variables))["terminal", "note"]


def test_without_an_engine_the_prompt_store_is_read_from_its_folder() -> None:
    model = locations.prompts_directory() / ("a" * 32)
    model.mkdir(parents=True)
    for digit in "01":
        (model / f"{digit * 64}.safetensors").write_bytes(bytes(1000))
    (model / "notes.txt").write_text("mine")
    diagnosis = found(MULL_PROMPT_STORE="10kB")
    assert diagnosis["prompt_store"] == {
        "folder": str(locations.prompts_directory()),
        "pages": 2,
        "bytes": 2000,
        "budget_bytes": 10_000,
        "strangers": [str(model / "notes.txt")],
        "ignored": None,
    }
    assert states(diagnosis)["prompt store", "note"].endswith("notes.txt")
    assert states(found(MULL_PROMPT_STORE="off"))["prompt store", "ok"].startswith("off")
