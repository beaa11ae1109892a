"""`mull bench`, as a script uses it: the real command, the real engine, the bundled model."""

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet
import pytest
from cli import Home, one_line

SMALL = ("--tasks", "addition,coin", "--problems", "4", "--budgets", "off,8,max")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


def report_of(home: Home, *arguments: str) -> dict[str, Any]:
    """The object that `mull bench --json` prints, valid by the published schema."""
    done = home.run("bench", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    schema = json.loads((files("assets") / "schemas" / "mull.bench.1.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report)
    return report


def kept(path: Path) -> list[dict[str, Any]]:
    """The answers in a results file."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [line for line in lines if line["line"] == "answer"]


def own(home: Home, *lines: dict[str, object]) -> str:
    path = home.folder / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return str(path)


def test_every_cell_has_its_figures_as_an_answer_alone_has_them(home: Home) -> None:
    alone = ("--draft", "off")  # what is guessed ahead depends on who else is at work
    report = report_of(home, *SMALL, *alone, "--out", "figures.jsonl")
    cells = {(row["method"], row["budget"]): row for row in report["cells"]}
    assert list(cells) == [("direct", "off"), ("cot", "8"), ("cot", "max")]
    answers = kept(home.folder / "figures.jsonl")
    assert len(answers) == 12
    for row in cells.values():
        assert (row["n"], row["samples"], row["unanswered"]) == (4, 1, 0)
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        methods = [row[name]["method"] for name in ("tokens", "seconds", "latency", "flops")]
        assert methods == ["measured", "apportioned", "measured", "derived"]
        assert row["joules"]["method"] in ("modelled", "measured", "unavailable")
    assert [row["thinking_tokens"]["value"] > 0 for row in cells.values()] == [False, True, True]
    assert cells["cot", "8"]["cut"] > 0 and any(row["front"] for row in cells.values())
    assert report["models"][0]["environment"]["model"] == "tiny"
    assert [found["method"] for found in report["enough"]] == ["cot"]
    # the same question to `mull ask` costs and says the same
    details = home.folder / "figures.csv"
    assert home.run("bench", *SMALL, *alone, "--out", "figures.jsonl", "--csv", str(details)).returncode == 0
    with (home.folder / "figures.answers.csv").open(encoding="utf-8", newline="") as file:
        one = next(row for row in csv.DictReader(file) if row["budget"] == "max")
    asked = home.ask(one["prompt"], *alone, "--max-tokens", "64")
    assert one["answer"] == asked["answer"]
    assert int(one["thinking_tokens"]) == asked["receipt"]["tokens"]["thinking"]
    flops = asked["receipt"]["compute"]
    assert int(one["flops"]) == flops["flops"]["total"]["value"] + flops["flops_saved_by_cache"]["value"]


def test_what_is_answered_is_not_asked_again_and_more_problems_add_to_it(home: Home) -> None:
    out = home.folder / "again.jsonl"
    first = report_of(home, *SMALL, "--out", str(out))
    before = out.read_bytes()
    assert report_of(home, *SMALL, "--out", str(out))["cells"] == first["cells"]
    assert out.read_bytes() == before
    report_of(home, *SMALL, "--problems", "6", "--out", str(out))
    assert out.read_bytes().startswith(before) and len(kept(out)) == 18
    report_of(home, *SMALL, "--again", "--out", str(out))
    assert len(kept(out)) == 30


def test_a_bench_that_is_interrupted_or_killed_goes_on_with_the_same_command(home: Home) -> None:
    out = home.folder / "killed.jsonl"
    command = ("bench", "--tasks", "chain", "--problems", "40", "--budgets", "16,max", "--out", str(out))
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        before = len(kept(out)) if out.exists() else 0
        process = home.start(*command, "--parallel", "2")
        for _ in range(2400):
            if out.exists() and out.read_bytes().count(b'"line":"answer"') >= before + 4:
                break
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == status
        if number == signal.SIGINT:
            assert said.count("\n") == 1 and "the same command goes on" in said
    with out.open("ab") as file:
        file.write(b'{"line": "answer", "cell"')  # as a kill in the middle of a line leaves it
    report = report_of(home, *command[1:])
    keys = [(line["cell"], line["problem"], line["sample"]) for line in kept(out)]
    assert len(keys) == len(set(keys)) == 80
    assert [row["n"] for row in report["cells"]] == [40, 40]


def test_an_engine_that_crashes_is_started_again_and_nothing_is_missing(home: Home) -> None:
    out = home.folder / "crashed.jsonl"
    process = home.start(
        "bench", "--tasks", "chain", "--problems", "40", "--budgets", "max", "--out", str(out)
    )
    for _ in range(2400):
        if out.exists() and b'"line":"answer"' in out.read_bytes():
            break
        time.sleep(0.02)
    engine = home.engine()
    assert engine is not None
    os.kill(engine["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len({line["problem"] for line in kept(out)}) == len(kept(out)) == 40


def test_a_model_that_has_changed_is_measured_anew(home: Home, tmp_path: Path) -> None:
    with_model = tmp_path / "model"
    shutil.copytree(str(files("assets") / "tiny"), with_model)
    out = tmp_path / "results.jsonl"
    command = ("--models", str(with_model), "--tasks", "coin", "--problems", "2", "--budgets", "off")
    one = report_of(home, *command, "--out", str(out))
    weights = with_model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2000:] = bytes(2000)
    weights.write_bytes(content)
    other = report_of(home, *command, "--out", str(out))
    assert one["models"][0]["fingerprint"] != other["models"][0]["fingerprint"]
    assert len(kept(out)) == 4 and other["cells"][0]["n"] == 2


def test_tasks_of_ones_own_in_several_formats_with_samples_and_seeds(home: Home) -> None:
    tasks = own(
        home,
        {"prompt": "What is 48 + 26?", "answer": 74, "family": "sum"},
        {"question": "What is 12 + 30?", "answer": "12+30=42\n#### 42"},
        {"question": "=1+1?", "choices": ["1", "2"], "answer": 1},
    )
    report = report_of(
        home, "--tasks", tasks, "--budgets", "16", "--samples", "3", "--seeds", "0,7", "--temperature", "1",
    )  # fmt: skip
    assert [(row["seed"], row["n"], row["samples"]) for row in report["rows"]] == [(0, 3, 3), (7, 3, 3)]
    (cell,) = report["cells"]
    assert (cell["seed"], cell["n"]) == (None, 6)
    assert cell["any_right"] >= cell["accuracy"] == sum(row["accuracy"] for row in report["rows"]) / 2
    assert report["split"] == "all" and report["temperature"] == 1


def test_methods_with_several_candidates_are_held_against_one_answer(home: Home) -> None:
    report = report_of(
        home, "--tasks", "coin", "--problems", "2", "--budgets", "off,8", "--methods", "direct,cot,vote:3"
    )
    cells = {(row["method"], row["budget"]): row for row in report["cells"]}
    assert list(cells) == [("direct", "off"), ("cot", "8"), ("vote:3", "off"), ("vote:3", "8")]
    assert cells["vote:3", "8"]["tokens"]["value"] > cells["cot", "8"]["tokens"]["value"]
    assert cells["vote:3", "8"]["temperature"] > 0 == cells["cot", "8"]["temperature"]
    assert [found["method"] for found in report["enough"]] == ["cot", "vote:3"]


def test_tables_and_plots_are_written_and_no_cell_is_a_formula(home: Home) -> None:
    tasks = own(home, {"prompt": "=1+1 and 12 + 30?", "answer": "=42", "type": "exact"})
    table, parquet = home.folder / "t.csv", home.folder / "t.parquet"
    done = home.run(
        "bench", "--tasks", tasks, "--budgets", "off,16", "--csv", str(table), "--parquet", str(parquet),
        "--plot", str(home.folder / "t.svg"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("t.csv", "t.answers.csv"):
        with (home.folder / name).open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert cells and not any(cell.startswith(("=", "+", "@")) for cell in cells)
    rows = pyarrow.parquet.read_table(home.folder / "t.answers.parquet").to_pylist()
    assert [(row["budget"], row["expected"], row["right"]) for row in rows] == [
        ("off", "=42", False),
        ("16", "=42", False),
    ]
    assert rows[0]["fingerprint"] and rows[0]["flops"] > 0
    assert pyarrow.parquet.read_table(parquet).num_rows == 2
    assert (home.folder / "t.svg").read_text("utf-8").startswith("<svg")
    assert (
        home.run(
            "bench", "--tasks", tasks, "--budgets", "off,16", "--plot", str(home.folder / "t.png")
        ).returncode
        == 0
    )
    assert (home.folder / "t.png").read_bytes().startswith(b"\x89PNG")


def test_a_person_sees_a_table_and_a_plot_in_eighty_columns(home: Home) -> None:
    done = home.run("bench", *SMALL, "--out", "again.jsonl")
    assert done.returncode == 0 and done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    for words in (
        "tiny: 4 problems of addition,coin (test split), seed 0",
        "95 %",
        "◆",
        "thinking",
        "FLOPs per answer",
    ):
        assert words in done.stdout


def test_calibration_is_kept_by_model_and_is_of_other_problems(home: Home) -> None:
    arguments = (
        "--tasks",
        "chain",
        "--problems",
        "8",
        "--budgets",
        "off,16,max",
        "--out",
        "calibrated.jsonl",
    )
    tested = report_of(home, *arguments)
    report = report_of(home, *arguments, "--calibrate")
    assert report["split"] == "calibration"
    (file,) = (home.folder / "data" / "mull" / "calibration").glob("*.json")
    found = json.loads(file.read_text("utf-8"))
    assert (
        file.stem == found["fingerprint"][:32] and found["fingerprint"] == report["models"][0]["fingerprint"]
    )
    assert len(found["questions"]) == 8
    ways = {(one["method"], one["think"]): one for one in found["outcomes"]}
    assert list(ways) == [
        ("direct", "off"),
        ("cot", 16),
        ("cot", "max"),
        *((method, "max") for method in ("refine:4", "vote:5", "best:5")),
    ]
    for (method, think), one in ways.items():
        assert {len(one[column]) for column in ("right", "thinking", "tokens", "path")} == {8}
        assert think != 16 or max(one["thinking"]) <= 16
        side_by_side = method in ("vote:5", "best:5")
        assert all(
            (path < total) == side_by_side for path, total in zip(one["path"], one["tokens"], strict=True)
        )
    shown = json.loads(home.run("ask", "--preview", "--json", "What is 7 + 8 - 3?").stdout)
    assert shown["answers"] == "measured" and shown["like"] == 8 and len(shown["rows"]) == 6
    answers = kept(home.folder / "calibrated.jsonl")
    assert (
        len({line["problem"] for line in answers}) == 16 and tested["tasks_digest"] != report["tasks_digest"]
    )


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--tasks", "additon"], 2, "there are no tasks 'additon'"),
        (["--tasks", "/nowhere/own.jsonl"], 1, "cannot read /nowhere/own.jsonl: no such file"),
        (["--budgets", "off,many"], 2, "--budgets is 'off,many', but must be off, max and numbers"),
        (["--seeds", "-1"], 2, "--seeds is '-1'"),
        (["--methods", "magic"], 2, "there is no method 'magic'; methods: direct"),
        (["--methods", "cot", "--budgets", "off"], 2, "the method cot thinks, but the budgets are off"),
        (["--models", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["--plot", "curve.pdf"], 2, "a plot is .svg or .png"),
        (["--csv", "/nowhere/t.csv"], 2, "there is no folder /nowhere"),
        (["--calibrate", "--split", "test"], 2, "--calibrate measures on the calibration split"),
        (["--problems", "0"], 2, "0 is not in the range"),
    ],
)
def test_nonsense_is_one_clear_line(home: Home, arguments: list[str], status: int, words: str) -> None:
    assert words in one_line(home.run("bench", *arguments), status)


def test_a_bad_line_is_named_before_anything_is_asked(home: Home) -> None:
    tasks = own(home, {"prompt": "What is 1 + 1?", "answer": 2}, {"prompt": "What is 1 + 2?"})
    said = one_line(home.run("bench", "--tasks", tasks), 1)
    assert said.startswith("mull: own.jsonl, line 2: has no answer; a problem has prompt and answer")


def test_what_is_no_results_file_is_left_as_it_is(home: Home) -> None:
    notes = home.folder / "notes.txt"
    notes.write_text("mine\n", "utf-8")
    assert "is no file of mull bench" in one_line(home.run("bench", *SMALL, "--out", str(notes)), 1)
    assert notes.read_text("utf-8") == "mine\n"
