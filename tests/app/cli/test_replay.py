"""`mull replay`, as a person uses it: on sessions, exports and answers as JSON, as they were and changed."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli import Home, one_line

QUESTION = "What is 12 + 7 - 4?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    home.run("ask", "--save", "--think", "16", QUESTION)
    home.run("ask", "-c", "--think", "16", "And 5 + 6?")
    yield home
    home.close()


@pytest.fixture(scope="module")
def answer(home: Home) -> dict[str, Any]:
    """What `mull ask --json --trace` prints."""
    return home.ask("--trace", "--think", "16", "--seed", "3", "--temperature", "1", QUESTION)


def write(home: Home, value: object, name: str = "answer.json") -> str:
    (home.folder / name).write_text(json.dumps(value), "utf-8")
    return name


def test_a_session_and_its_export_come_out_as_recorded(home: Home) -> None:
    done = home.run("replay", "--check", "last")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line.endswith(": as recorded")] == [
        "t2  cot of tiny: as recorded",
        "t4  cot of tiny: as recorded",
    ]
    home.run("export", "last", "-o", "session.json")
    session = json.loads((home.folder / "session.json").read_text("utf-8"))
    traces = [turn["answer"]["trace"] for turn in session["turns"] if turn["answer"]]
    assert [trace["messages"] for trace in traces] == [[], []], "the turns are there already"
    assert home.run("replay", "--check", "session.json").stdout == done.stdout
    session["turns"][0]["content"] += "?"
    changed = home.run("replay", "--check", write(home, session, "changed.json"))
    assert changed.returncode == 3 and changed.stdout.count("differs  prompt:") == 2


def test_its_json_meets_the_published_schema(home: Home, answer: dict[str, Any]) -> None:
    done = home.run("replay", "--json", write(home, answer))
    report = json.loads(done.stdout)
    schema = json.loads((files("assets") / "schemas" / "mull.replay.1.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report)
    [only] = report["answers"]
    assert only["differences"] == [] and only["recorded"] == only["replayed"]
    tokens = answer["receipt"]["tokens"]
    [path] = only["paths"]
    assert path["agreed"] == path["choices"] >= tokens["thinking"] + tokens["answer"]


def test_a_check_ends_with_3_where_anything_differs_and_a_report_does_not(
    home: Home, answer: dict[str, Any]
) -> None:
    file = write(home, {**answer, "answer": answer["answer"] + "0"})
    report, check = home.run("replay", file), home.run("replay", "--check", file)
    assert (report.returncode, check.returncode) == (0, 3)
    assert report.stdout == check.stdout and report.stderr == check.stderr == ""
    assert "differs  text: the answer is not that of the recorded tokens" in report.stdout


def test_what_cannot_be_replayed_is_said_in_one_line(home: Home, answer: dict[str, Any]) -> None:
    plain = write(home, {**answer, "trace": None}, "plain.json")
    assert "no answer that was recorded" in one_line(home.run("replay", plain), 1)
    Path(home.folder / "torn.json").write_text('{"schema": "mull.answer/1", ', "utf-8")
    assert "neither an answer nor an exported session" in one_line(home.run("replay", "torn.json"), 1)
    assert "there is no file gone.json" in one_line(home.run("replay", "gone.json"), 1)
    assert "no session begins with" in one_line(home.run("replay", "zzzz"), 1)
    gone = write(home, answer)
    assert "no model 'nowhere'" in one_line(home.run("replay", "--model", "nowhere", gone), 1)
