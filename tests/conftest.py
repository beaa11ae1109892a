"""Every test lives in a home of its own, and leaves no engine behind."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cli
import psutil
import pytest

from engine.thinking.sandbox import run_python

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core has a worker: threads would wait for each other


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests' processes find the kernels: building them takes seconds."""
    folder = tmp_path_factory.mktemp("kernels")
    cli.kernels[:] = [folder]
    return folder


@pytest.fixture(scope="session")
def shut_in() -> None:
    """Code can be shut in here: a container without rights over its own namespaces refuses that."""
    ran = asyncio.run(run_python("print(1)"))
    if ran.status == "refused":
        pytest.skip(ran.stderr)


@pytest.fixture(autouse=True)
def home(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    kernels: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A home without settings, sessions or engine; its runtime directory is short enough for a socket."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "mull").mkdir()
    (cache / "mull" / "kernels").symlink_to(kernels)
    runtime = Path(tempfile.mkdtemp(prefix="mull-"))
    for name in ("CONFIG", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    for name in [name for name in os.environ if name.startswith("MULL_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    _end_engines(runtime)
    shutil.rmtree(runtime, ignore_errors=True)


def _end_engines(runtime: Path) -> None:
    """Kill engines that were started under this runtime directory; the command line of each names it."""
    if not any(runtime.iterdir()):
        return
    for process in psutil.process_iter(["cmdline"]):
        if str(runtime) in " ".join(process.info["cmdline"] or ()):
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
