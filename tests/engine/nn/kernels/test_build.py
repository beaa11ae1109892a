"""The kernels are built once and never loaded damaged; where they cannot be, there is one line why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.nn.kernels import build

SAY = [sys.executable, "-m", "engine.nn.kernels.build"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which the kernels will lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    return tmp_path / "empty" / "mull" / "kernels"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's, in a hurry: it builds but a stand-in. Each use leaves a line in this file."""
    uses, stand_in = tmp_path / "uses", tmp_path / "stand_in.c"
    stand_in.write_text(
        "int mull_has(int isa) { return isa == 0; }"
        "void mull_product(void) {} void mull_search(void) {}"
        "void mull_attend(void) {} void mull_draw(void) {}"
    )
    skip = 'while [ "$1" != -o ]; do shift; done'
    script(
        tmp_path / "compiler",
        f'echo used >> {uses}; {skip}; exec cc -shared -fPIC -o "$2" {stand_in}',
        monkeypatch,
    )
    return uses


def script(path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let CC be a shell script."""
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))


def said(**variables: str) -> dict[str, Any]:
    """What a new process finds."""
    done = subprocess.run(
        SAY, capture_output=True, text=True, timeout=120, env={**os.environ, **variables}, check=True
    )
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def none(**variables: str) -> str:
    report = said(**variables)
    assert report["kernels"] is None
    return str(report["text"])


def test_they_are_built_once_and_found_by_the_next_process(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "uses"
    script(tmp_path / "compiler", f'echo used >> {compiler}; exec cc "$@"', monkeypatch)
    first = said()
    assert first["kernels"] in build.INSTRUCTION_SETS
    assert said() == first
    assert compiler.read_text() == "used\n"
    assert [str(path) in first["text"] for path in cache.iterdir()] == [True]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]],
)
def test_a_damaged_library_is_built_anew(cache: Path, compiler: Path, damage: Any) -> None:
    first = said()
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert said() == first
    assert compiler.read_text() == "used\nused\n"
    assert list(cache.iterdir()) == [path]


def test_a_library_that_is_whole_but_cannot_be_loaded_is_built_anew(cache: Path, compiler: Path) -> None:
    first = said()
    (path,) = cache.iterdir()
    path.unlink()
    name = path.stem.split("-")[0]
    (cache / f"{name}-{build._digest(b'no library')}.so").write_bytes(b"no library")
    assert said() == first
    assert list(cache.iterdir()) == [path]


def test_another_compiler_builds_its_own(cache: Path, compiler: Path, tmp_path: Path) -> None:
    said()
    other = tmp_path / "other"
    other.write_text(Path(os.environ["CC"]).read_text())
    other.chmod(0o700)
    said(CC=str(other))
    assert compiler.read_text() == "used\nused\n"
    assert len(list(cache.iterdir())) == 2


def test_two_processes_at_once_both_get_them(cache: Path, compiler: Path) -> None:
    both = [subprocess.Popen(SAY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert json.loads(out)["kernels"] is not None
    assert {path.suffix for path in cache.iterdir()} == {".so"}


def test_without_a_compiler_the_line_says_how_to_get_one(tmp_path: Path) -> None:
    assert none(PATH=str(tmp_path), CC="").startswith(
        "there is no C compiler (cc, gcc or clang); install one"
    )
    assert "CC names nothing-like-it, which is not there" in none(CC="nothing-like-it -m64")
    assert "CC is no command: no closing quotation; correct or unset CC" in none(CC='cc "-O2')


def test_a_compiler_that_fails_is_quoted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "bad", "echo note; echo 'cpu.c:1: fatal error: no headers' >&2; exit 1", monkeypatch)
    line = none()
    assert "bad failed: cpu.c:1: fatal error: no headers; mend it, or set CC" in line
    script(tmp_path / "lying", "exit 0", monkeypatch)
    assert "cannot be loaded" in none()
    (tmp_path / "none").write_text("not a program")
    (tmp_path / "none").chmod(0o700)
    assert "does not run: Exec format error" in none(CC=str(tmp_path / "none"))
    assert [path for path in cache.iterdir() if path.suffix == ".tmp"] == []


def test_a_compiler_that_hangs_is_ended(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "slow", "exec sleep 60", monkeypatch)
    monkeypatch.setattr(build, "TIME_LIMIT_S", 0.1)
    with pytest.raises(build.NoKernels, match="did not end within"):
        build.load()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_to_or_that_others_can_write_to_is_not_used(
    cache: Path, tmp_path: Path, compiler: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be made" in none(XDG_CACHE_HOME=str(tmp_path / "file"))
    cache.mkdir(parents=True)
    for mode in (0o720, 0o702):
        cache.chmod(mode)
        assert f"can be written to by others; run: chmod 700 {cache}" in none()
    assert not compiler.exists()


def test_they_can_be_turned_off(compiler: Path) -> None:
    assert none(MULL_KERNELS="off") == "MULL_KERNELS is off; unset MULL_KERNELS"
    assert not compiler.exists()
