"""`mull speed`, as a script uses it: the real command, the real engine, the bundled model."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from cli import MULL, Home, one_line

from profiles.costs import decode_flops, prefill_flops, shape_from_config

SMALL = ("--prompt", "48", "--generate", "8", "--runs", "2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


def report_of(home: Home, *arguments: str) -> dict[str, Any]:
    """The object that `mull speed --json` prints, valid by the published schema."""
    done = home.run("speed", "--json", *SMALL, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    schema = json.loads((files("assets") / "schemas" / "mull.speed.1.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report)
    return report


def idle(home: Home) -> bool:
    """Whether the engine comes to rest."""
    for _ in range(200):
        engine = home.engine()
        assert engine is not None
        if not engine["answering"]:
            return True
        time.sleep(0.05)
    return False


def test_it_computes_what_was_asked_for_and_each_time_anew(home: Home) -> None:
    shape = shape_from_config(json.loads((files("assets") / "tiny" / "config.json").read_text("utf-8")))
    for _ in range(2):
        report = report_of(home, "--batch", "3")
        assert report["schema"] == "mull.speed/1"
        assert [report[name] for name in ("prompt", "generate", "batch")] == [48, 8, 3]
        assert len(report["runs"]) == 2
        assert report["prefill"]["flops"]["value"] == 3 * prefill_flops(shape, 48).total, "nothing was cached"
        # the first token comes from the prompt's pass, and the last is not put through the model
        assert report["decode"]["flops"]["value"] == 3 * decode_flops(shape, *range(49, 56)).total
    engine = home.engine()
    assert engine is not None and engine["kv_idle_bytes"] == 0, "nothing of it is kept"
    assert not list((home.folder / "cache/mull/prompts").rglob("*.safetensors"))


def test_its_figures_follow_from_the_runs_and_from_limits_that_were_measured(home: Home) -> None:
    report = report_of(home, "--batch", "2")
    limits, runs = report["limits"], report["runs"]
    assert limits["bandwidth"]["method"] == limits["peak"]["method"] == "measured"
    assert "1 thread" in limits["bandwidth"]["source"] and "fp32" in limits["peak"]["source"]
    prefill, decode = ([run[phase]["value"] for run in runs] for phase in ("prefill", "decode"))
    middle = report["prefill_tok_s"]
    assert (middle["low"], middle["high"]) == (96 / max(prefill), 96 / min(prefill))
    assert middle["value"] == pytest.approx(sum(96 / seconds for seconds in prefill) / 2)
    assert report["decode_tok_s"]["high"] == 14 / min(decode)
    assert report["decode_tok_s_per_row"]["high"] == pytest.approx(7 / min(decode))
    flops, peak = report["prefill"]["flops"]["value"], limits["peak"]["value"]
    assert report["mfu"]["high"] == pytest.approx(flops / min(prefill) / peak)
    assert report["mbu"]["value"] > 0
    for phase in ("prefill", "decode"):
        figures = report[phase]
        least = max(
            figures["flops"]["value"] / peak, figures["bytes"]["value"] / limits["bandwidth"]["value"]
        )
        seconds = [run[phase]["value"] for run in runs]
        assert (
            figures["gap"]["low"] <= max(seconds) / least and figures["gap"]["high"] >= min(seconds) / least
        )
        assert figures["bound"] in ("compute", "bandwidth")
    for run in runs:
        assert 0 < run["prefill"]["value"] <= run["first_token"]["value"]


def test_threads_are_those_that_the_model_is_loaded_with(home: Home) -> None:
    count = min(2, os.cpu_count() or 1)
    report = report_of(home, "--threads", str(count))
    assert report["environment"]["threads"] == count
    assert f"{count} thread" in report["limits"]["peak"]["source"]


def test_a_person_is_shown_a_table_and_what_binds_and_a_script_no_progress(home: Home) -> None:
    done = home.run("speed", *SMALL, "--batch", "2")
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "48 prompt tokens",
        "batch 2",
        "MFU",
        "MBU",
        "of it a row",
        "first token",
        "measured: best of",
    ):
        assert words in done.stdout
    assert "prefill: " in done.stdout and "is the limit" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()[:7]) <= 80


def test_on_a_terminal_its_progress_is_one_line_that_goes_away(home: Home) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [MULL, "speed", "--json", *SMALL], env=home.environment, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    assert process.stdout is not None and json.loads(process.stdout.read())["runs"]
    assert process.wait(60) == 0
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "run 2 of 2" in seen and "\n" not in seen and seen.endswith("\r\x1b[K")


def test_an_interrupt_ends_with_130_and_leaves_the_engine_at_rest(home: Home) -> None:
    process = home.start("speed", "--prompt", "64", "--generate", "2000", "--runs", "100")
    for _ in range(400):
        engine = home.engine()
        if engine is not None and engine["answering"]:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    assert idle(home)
    assert home.ask("What is 48 + 26?")["finish"] == "stop"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--batch", "0"], 2, "0 is not in the range x>=1"),
        (["--generate", "1"], 2, "1 is not in the range x>=2"),
        (["--prompt", "many"], 2, "'many' is not a valid integer"),
        (["--threads", "0"], 2, "--threads is 0"),
        (["--threads", "100000"], 2, "100000 threads are more than this machine's"),
        (["--prompt", "4000", "--generate", "97"], 2, "4,000 + 97 tokens are more than the context of 4,096"),
        (["--batch", "100000"], 3, "not 100,000; use a smaller --batch"),
        (["--model", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["tiny"], 2, "unexpected extra argument"),
    ],
)
def test_nonsense_is_one_clear_line(home: Home, arguments: list[str], status: int, words: str) -> None:
    assert words in one_line(home.run("speed", *arguments), status)
