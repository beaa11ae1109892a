"""`mull ask --preview` and `--method auto`: what was measured is foreseen, and what is foreseen decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema
import msgspec
import pytest
from cli import Home, one_line

from engine.protocol.calibration import CalibrationRecord, Outcomes
from engine.tasks.features import features

SUM, PUZZLE = "What is 48 + 26?", "Use 9, 11 and 5 with +, - and * to make 34. Each number at most once."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A user whose calibration found thinking to help with sums alone, and to take long with puzzles."""
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.run("ask", "--think", "off", SUM).returncode == 0
    engine = home.engine()
    assert engine is not None
    record = CalibrationRecord(
        created="2026-01-02T03:04:05+00:00",
        mull="0",
        model="tiny",
        fingerprint=engine["model"]["fingerprint"],
        tasks="own",
        tasks_digest="",
        seeds=(0,),
        questions=(features("What is 31 + 17?"),) * 30 + (features(PUZZLE),) * 30,
        outcomes=(
            outcomes("direct", "off", (0, 1), (3, 3)),
            outcomes("cot", 16, (0, 0), (18, 18)),
            outcomes("cot", "max", (1, 0), (40, 300)),
        ),
    )
    folder = home.folder / "data" / "mull" / "calibration"
    folder.mkdir(parents=True)
    (folder / f"{record.fingerprint[:32]}.json").write_bytes(msgspec.json.encode(record))
    yield home
    home.close()


def outcomes(method: str, think: Any, right: tuple[int, int], tokens: tuple[int, int]) -> Outcomes:
    """The same for all sums, and the same for all puzzles."""
    spent = (tokens[0],) * 30 + (tokens[1],) * 30
    return Outcomes(
        method=method,
        think=think,
        right=(right[0],) * 30 + (right[1],) * 30,
        thinking=spent,
        tokens=spent,
        path=spent,
    )


def preview(home: Home, *arguments: str) -> dict[str, Any]:
    """The object that is printed, valid by the published schema."""
    done = home.run("ask", "--preview", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    schema = json.loads((files("assets") / "schemas" / "mull.preview.1.schema.json").read_text("utf-8"))
    jsonschema.validate(found, schema)
    return found


def chosen(found: dict[str, Any]) -> tuple[str, int | str]:
    (row,) = (row for row in found["rows"] if row["chosen"])
    return row["method"], row["think"]


def test_what_is_foreseen_is_what_was_measured_of_like_questions(home: Home) -> None:
    of_sum, of_puzzle = preview(home, SUM), preview(home, PUZZLE)
    assert of_sum["answers"] == "measured" and of_sum["like"] == 20
    direct, _, cot = of_sum["rows"]
    assert (
        cot["tokens"]["p50"] - of_sum["prompt_tokens"] == cot["tokens"]["p90"] - of_sum["prompt_tokens"] == 40
    )
    assert of_puzzle["rows"][-1]["tokens"]["p90"] - of_puzzle["prompt_tokens"] == 300
    assert cot["accuracy"] > 0.8 > 0.2 > direct["accuracy"]
    assert cot["accuracy_low"] < cot["accuracy"] < cot["accuracy_high"]
    assert [chosen(of_sum), chosen(of_puzzle)] == [("cot", "max"), ("direct", "off")]
    assert [row["dead"] for row in of_puzzle["rows"]] == [False, True, True]


def test_a_budget_decides_what_fits_and_what_is_chosen(home: Home) -> None:
    free = preview(home, SUM)
    tight = preview(home, "--budget", f"{free['prompt_tokens'] + 30}tok", SUM)
    assert [row["fits"] for row in tight["rows"]] == [True, True, False]
    assert chosen(tight) == ("direct", "off")
    flops = free["rows"][-1]["flops"]["p90"]
    assert chosen(preview(home, "--budget", f"{flops * 1.01:.0f}FLOP", SUM)) == ("cot", "max")
    assert chosen(preview(home, "--budget", f"{flops * 0.99:.0f}FLOP", SUM)) == ("direct", "off")


def test_auto_answers_with_what_the_preview_chose_and_says_why(home: Home) -> None:
    said = home.run("ask", "--method", "auto", SUM).stderr
    assert "auto: cot, expected to be right in" in said
    answer = home.ask("--think", "auto", SUM)
    assert answer["method"] == "cot" and answer["thinking"]
    assert answer["planned"]["method"] == "cot" and answer["planned"]["accuracy"] > 0.8
    assert answer["receipt"]["sequence"] > 0
    puzzled = home.ask("--method", "auto", PUZZLE)
    assert (puzzled["method"], puzzled["thinking"]) == ("direct", "")
    too_little = f"{preview(home, SUM)['prompt_tokens'] + 2}tok"
    squeezed = home.ask("--method", "auto", "--budget", too_little, SUM)
    assert squeezed["answer"] and squeezed["planned"]["reason"].startswith("nothing fits the budget")


def test_the_table_fits_eighty_columns_and_says_where_it_is_from(home: Home) -> None:
    done = home.run("ask", "--preview", SUM)
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines()[:6])) <= 80
    assert "▶  cot" in done.stdout and "auto would take cot" in done.stdout
    assert "measured here by mull bench --calibrate, the 20 questions most like it" in done.stdout
    assert "`mull calibrate` measures this device" in done.stderr


def test_how_long_a_step_takes_here_is_measured_and_then_used(home: Home) -> None:
    curve = json.loads(home.run("calibrate", "--json").stdout)
    assert [step["rows"] for step in curve["steps"]] == [1, 2, 4, 8, 16, 32]
    step = curve["steps"][0]["seconds"]
    found = preview(home, SUM)
    assert found["device"] == "measured"
    prompt_s = found["prompt_tokens"] / curve["prefill_tok_s"]
    assert found["rows"][-1]["seconds"]["p50"] == pytest.approx(40 * step + prompt_s)


def test_a_damaged_record_counts_as_none(home: Home) -> None:
    (record,) = (
        path
        for path in (home.folder / "data" / "mull" / "calibration").glob("*.json")
        if not path.name.endswith(".device.json")
    )
    whole = record.read_bytes()
    try:
        record.write_bytes(whole[: len(whole) // 2])
        found = preview(home, SUM)
        assert found["answers"] != "measured"
        assert found["answers"] == "shipped" or all(row["accuracy"] is None for row in found["rows"])
    finally:
        record.write_bytes(whole)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preview", "--save", SUM], "--preview answers nothing"),
        (["--method", "auto", "--think", "off", SUM], "auto chooses how much to think, but thinking is off"),
        (
            ["--method", "cot", "--think", "auto", SUM],
            "--think auto has the method planned, but --method is cot",
        ),
    ],
)
def test_what_contradicts_itself_is_one_clear_line(home: Home, arguments: list[str], words: str) -> None:
    assert words in one_line(home.run("ask", *arguments), 2)
