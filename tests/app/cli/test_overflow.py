"""A saved conversation that outgrows a small context, as a script goes on with it."""

import json
from collections.abc import Iterator

import pytest
from cli import Home, one_line

SMALL = ("--context", "256", "--think", "off")
QUESTIONS = [f"What is {number} + {number + 1}?" for number in range(20)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """With a conversation that has no room for another question."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.ask("--save", *SMALL, QUESTIONS[0])
    for question in QUESTIONS[1:]:
        done = home.run("ask", "-c", *SMALL, question)
        if done.returncode:
            yield home
            home.close()
            return
    raise AssertionError("the context was never full")


def test_it_stops_with_the_status_of_what_does_not_fit_and_names_the_ways_out(home: Home) -> None:
    line = one_line(home.run("ask", "-c", *SMALL, "What is 7 + 8?"), 3)
    assert "leaves too little of the context's 256" in line
    assert "--overflow drop|summarize" in line and "begin a new one" in line


def test_dropping_answers_says_so_on_stderr_and_names_the_turns_in_receipt_and_export(home: Home) -> None:
    done = home.run("ask", "-c", *SMALL, "--overflow", "drop", "What is 7 + 8?")
    assert done.returncode == 0 and done.stdout.strip().isdigit()
    assert done.stderr.startswith("left out, for the context is full: t1 to t")
    turns = json.loads(home.run("export", "last", "--format", "json").stdout)["turns"]
    left_out = turns[-1]["answer"]["receipt"]["state"]["turns_left_out"]
    by_id = {turn["id"]: turn for turn in turns}
    assert left_out[:2] == ["t1", "t2"] and by_id["t1"]["content"] == QUESTIONS[0]
    last_asked = [by_id[name]["content"] for name in left_out if by_id[name]["role"] == "user"][-1]
    markdown = home.run("export", "last", "--format", "md").stdout
    assert f"left out were the {len(left_out)} turns of “{QUESTIONS[0]}” to “{last_asked}”" in markdown


def test_a_summary_is_made_once_and_told_again_by_the_questions_that_follow(home: Home) -> None:
    options = ("-c", *SMALL, "--overflow", "summarize")
    first = home.ask(*options, "What is 9 + 8?")
    second = home.ask(*options, "What is 3 + 8?")
    assert first["summary"]["text"] and first["summary"] == second["summary"]
    assert first["receipt"]["tokens"]["summary"] > 0 == second["receipt"]["tokens"]["summary"]
    assert first["summary"]["turns"] == first["receipt"]["state"]["turns_left_out"]
    markdown = home.run("export", "last", "--format", "md").stdout
    assert first["summary"]["text"] in markdown and "Summary of these turns" in markdown


def test_what_is_chosen_can_be_a_setting(home: Home) -> None:
    home.environment["MULL_OVERFLOW"] = "drop"
    try:
        assert home.ask("-c", *SMALL, "What is 4 + 4?")["receipt"]["state"]["turns_left_out"]
        assert "overflow" in home.run("config").stdout
    finally:
        del home.environment["MULL_OVERFLOW"]
    assert "--overflow is 'keep', but must be stop or drop or summarize" in one_line(
        home.run("ask", "--overflow", "keep", "x"), 2
    )
