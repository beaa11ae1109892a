"""The installed command `mull`, run as a process of its own in a home of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

MULL = Path(sys.executable).with_name("mull")
kernels: list[Path] = []
"""Where all homes of this test process find the kernels that one of them built, as soon as that is known."""


class Home:
    """A user's home: settings, sessions, and one resident engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = Path(tempfile.mkdtemp(prefix="mull-"))
        cache = folder / "cache" / "mull"
        for built in kernels if not cache.exists() else ():
            cache.mkdir(parents=True)
            (cache / "kernels").symlink_to(built)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MULL_")},
            **{
                f"XDG_{name}_HOME": str(folder / name.lower())
                for name in ("CONFIG", "DATA", "STATE", "CACHE")
            },
            "XDG_RUNTIME_DIR": str(self.runtime),
            "HF_HOME": str(folder / "huggingface"),
        }

    @property
    def socket(self) -> Path:
        return self.runtime / "mull" / "engine.sock"

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start `mull` with pipes for its output, in a folder that holds nothing."""
        return subprocess.Popen(
            [MULL, *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `mull` to its end."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        try:
            out, err = process.communicate(stdin, timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def ask(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """The object that `mull ask --json` prints, valid by the published schema."""
        done = self.run("ask", "--json", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        validate(answer)
        return answer

    def engine(self) -> dict[str, Any] | None:
        """What `mull ps --json` says."""
        found: dict[str, Any] | None = json.loads(self.run("ps", "--json").stdout)
        return found

    def close(self) -> None:
        self.run("stop")
        shutil.rmtree(self.runtime, ignore_errors=True)


def validate(answer: dict[str, Any]) -> None:
    """Raise where an answer does not meet the published schema."""
    schema = json.loads((files("assets") / "schemas" / "mull.answer.1.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(answer)


def one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that a failed command says on stderr."""
    assert done.returncode == status, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]
