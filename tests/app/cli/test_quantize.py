"""`mull quantize` as a person runs it: what it writes, what it says, what it leaves when it is stopped."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
from cli import Home, one_line

SMALL = ("--problems", "12")
GPTQ = ("--to", "gptq", "--samples", "200", "--length", "400")


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    home.environment["OMP_NUM_THREADS"] = "1"
    yield home
    home.close()


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    schema = json.loads((files("assets") / "schemas" / "mull.quantization.1.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(found)
    return found


def left_behind(home: Home, name: str = "out") -> list[Path]:
    return [path for path in home.folder.iterdir() if name in path.name]


def worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The process that does the work, once it has begun to write."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        if children:
            return children[0]
        time.sleep(0.05)
    raise AssertionError("nothing was started")


def until(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.02)


def test_a_checkpoint_is_written_reported_on_and_answers_as_the_original(user: Home) -> None:
    made = result(user.run("quantize", "tiny", "--to", "int8", "out", "--report", *SMALL, "--json"))
    written, (original, quantized) = made["written"], made["quality"]["rows"]
    assert (written["path"], written["matrices"]) == ("out", 28)
    weights = user.folder / "out" / "model.safetensors"
    sizes = [row["bytes"]["value"] for row in (original, quantized)]
    assert written["bytes"] == sizes[1] < weights.stat().st_size < sizes[0] * 0.6
    assert original["kl"]["value"] is None and original["bytes_per_weight"]["value"] == 2
    assert 0 < quantized["kl"]["value"] < 1e-4 and quantized["agreement"]["value"] > 0.99
    question = ("--think", "off", "What is 12 + 7?")
    assert user.ask("--model", "out", *question)["answer"] == user.ask(*question)["answer"]


def test_a_folder_named_like_the_bundled_model_is_what_its_report_is_of(user: Home) -> None:
    made = result(user.run("quantize", "tiny", "--to", "int4", "tiny", "--report", *SMALL, "--json"))
    original, quantized = made["quality"]["rows"]
    assert made["written"]["path"] == "tiny" and quantized["name"] == str(user.folder / "tiny")
    assert quantized["bytes"]["value"] == made["written"]["bytes"] < original["bytes"]["value"]


def test_a_report_needs_nothing_written_and_a_terminal_shows_a_table(user: Home) -> None:
    done = user.run("quantize", "--report", "tiny", "int8", "int4,down_proj=int8", *SMALL)
    assert done.returncode == 0, done.stderr
    _, _, heading, *rows = done.stdout.splitlines()
    assert heading.split()[:2] == ["size", "bytes/weight"]
    assert [row.split("  ")[0] for row in rows] == ["tiny", "--quant int8", "--quant int4,down_proj=int8"]
    assert not left_behind(user)


def test_gptq_says_on_what_it_was_calibrated(user: Home) -> None:
    (user.folder / "notes.txt").write_text("What is 3 + 4? It is 7. " * 200)
    done = user.run("quantize", "tiny", "--to", "gptq", "out", "--calibration", "notes.txt", "--group", "-1")
    assert done.returncode == 0, done.stderr
    assert "out: gptq 4-bit, 28 matrices quantized, " in done.stdout
    assert "texts from notes.txt" in done.stdout
    config = json.loads((user.folder / "out" / "config.json").read_text())
    assert config["quantization_config"]["group_size"] == -1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_on_the_way_it_leaves_no_folder_and_no_process(user: Home, how: signal.Signals) -> None:
    process = user.start("quantize", "tiny", "out", *GPTQ)
    worker = worker_of(process)
    until(user.folder, ".out.*")
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130}.get(how, -how)
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running()
    assert not left_behind(user)


def test_work_that_dies_is_told_in_one_line(user: Home) -> None:
    process = user.start("quantize", "tiny", "out", *GPTQ)
    worker = worker_of(process)
    until(user.folder, ".out.*")
    worker.kill()
    out, err = process.communicate(timeout=60)
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert "ended without a result (exit status -9)" in one_line(done, 1)


def test_bad_input_is_one_line_with_the_next_step(user: Home) -> None:
    (user.folder / "there").mkdir()
    shutil.copytree(Path(__file__).parents[2] / "fixtures" / "gptq" / "b8", user.folder / "few")
    cases = [
        (("tiny", "--to", "int4", "there"), 1, "is there already; name a folder that is not there yet"),
        (("missing", "--to", "int4", "out"), 1, "no model 'missing'"),
        (("few", "--to", "int4", "out"), 1, "is quantized already (gptq 8-bit g64)"),
        (("--report", "tiny", "few"), 1, "640 tokens, the original 1024"),
        (("--report", "tiny", "int4,x"), 2, "'x' is no exception"),
        (("tiny", "--to", "int4", "out", "--device", "cuda:9"), 1, "device cuda:9 is not there"),
        (("tiny",), 2, "--to, or ask for a --report"),
        (("tiny", "--to", "int4"), 2, "one MODEL and the folder OUT"),
        (("tiny", "--to", "int4", "out", "--desc-act"), 2, "--desc-act is of --to gptq"),
        (("--report", "tiny", "--problems", "90000"), 2, "ask for fewer"),
    ]
    for arguments, status, said in cases:
        assert said in one_line(user.run("quantize", *arguments), status), arguments
    assert not left_behind(user)


def test_a_folder_named_like_the_engine_is_not_run(user: Home) -> None:
    (user.folder / "engine").mkdir()
    (user.folder / "engine" / "__init__.py").write_text("raise SystemExit('foreign')")
    assert user.run("quantize", "tiny", "--to", "int4", "out").returncode == 0
    assert (user.folder / "out" / "config.json").is_file()
