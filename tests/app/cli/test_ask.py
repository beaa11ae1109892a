"""`mull ask`, as a script uses it: the real command, the real engine, the bundled model."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import MULL, Home, one_line

QUESTION = "What is 48 + 26?"
LONG = ("--temperature", "99", "--seed", "11", "--think", "off", "--max-tokens", "3000")
"""So hot that the model babbles for two thousand tokens."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


def test_piped_it_prints_the_answer_alone(home: Home) -> None:
    done = home.run("ask", QUESTION)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == home.ask(QUESTION)["answer"] + "\n"


def test_statistics_go_to_stderr(home: Home) -> None:
    done = home.run("ask", "--stats", QUESTION)
    assert done.stdout.strip().isdigit()
    assert "think " in done.stderr and "tok" in done.stderr and "FLOP" in done.stderr


def test_a_receipt_accounts_for_its_tokens_times_and_operations(home: Home) -> None:
    receipt = home.ask(QUESTION)["receipt"]
    flops = receipt["compute"]["flops"]
    parts = [flops[phase]["value"] for phase in ("prefill", "thinking", "answer", "discarded")]
    assert flops["total"]["value"] == sum(parts) == sum(step["flops"] for step in receipt["steps"])
    tokens = receipt["tokens"]
    kinds = ("prefilled", "thinking", "answer", "forced", "draft_rejected")
    forwarded = sum(tokens[kind] for kind in kinds) - tokens["pending"]
    assert forwarded == sum(step["tokens"] for step in receipt["steps"])
    assert tokens["prefilled"] + tokens["cached"] == tokens["prompt"]
    times = {name: figure["value"] for name, figure in receipt["time"].items()}
    assert 0 < times["prefill"] <= times["first_token"] <= times["total"]
    assert times["itl_p50"] <= times["itl_p95"]
    assert receipt["energy"]["total"]["value"] != 0


@pytest.mark.parametrize("budget", [8, 16, 32])
def test_a_thinking_budget_holds_its_forced_tokens_included(home: Home, budget: int) -> None:
    tokens = home.ask("--think", str(budget), "What is 7 + 8 - 3 + 9 - 4 + 6 - 2?")["receipt"]["tokens"]
    assert 0 < tokens["thinking"] + tokens["forced"] <= budget


def test_thinking_off_thinks_nothing(home: Home) -> None:
    answer = home.ask("--think", "off", QUESTION)
    assert (answer["method"], answer["thinking"], answer["receipt"]["tokens"]["thinking"]) == (
        "direct",
        "",
        0,
    )


def test_a_seed_repeats_an_answer_and_another_seed_changes_it(home: Home) -> None:
    hot = ["--temperature", "1.5", "--think", "64", QUESTION]
    texts = [home.ask("--seed", str(seed), *hot)["thinking"] for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts[1:])) > 1


def test_a_prompt_and_a_file_on_standard_input_are_joined(home: Home) -> None:
    joined = home.ask("What is this?\n\n48 + 26")
    with_file = home.ask("What is this?", stdin="48 + 26\n")
    assert with_file["receipt"]["tokens"]["prompt"] == joined["receipt"]["tokens"]["prompt"]
    assert home.ask("-", stdin="What is this?\n\n48 + 26")["answer"] == joined["answer"]


def test_a_saved_question_is_a_session_that_goes_on(home: Home) -> None:
    first = home.ask("--save", QUESTION)
    home.ask("--continue", "Thanks")
    sessions = json.loads(home.run("sessions", "list", "--json").stdout)
    assert [session["name"] for session in sessions] == [QUESTION]
    turns = json.loads(home.run("export", sessions[0]["id"], "--format", "json").stdout)["turns"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert turns[1]["answer"] == {**first, "trace": {**first["trace"], "messages": []}}  # its turns have them
    assert (
        home.ask("--continue", "Thanks")["receipt"]["tokens"]["prompt"]
        > (home.ask("Thanks")["receipt"]["tokens"]["prompt"])
    )


def test_a_session_that_goes_on_takes_no_system_message_for_it_has_its_beginning(home: Home) -> None:
    home.ask("--save", "--system", "Be brief.", QUESTION)
    line = one_line(home.run("ask", "-c", "--system", "Be long.", "And then?"), 2)
    assert "the session already has its beginning" in line
    turns = json.loads(home.run("export", "last", "--format", "json").stdout)["turns"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]


def test_bytes_that_are_no_text_are_asked_as_their_replacement(home: Home) -> None:
    broken = home.ask("--system", "Be \udcff", f"{QUESTION} \udcff")
    known = home.ask("--system", "Be \ufffd", f"{QUESTION} \ufffd")
    assert broken["receipt"]["tokens"]["prompt"] == known["receipt"]["tokens"]["prompt"]


@pytest.mark.parametrize(
    ("closing", "arguments", "status"),
    [
        ("<&-", [QUESTION], 0),
        ("<&-", ["-"], 2),
        (">&-", [QUESTION], 0),
        ("2>&-", [QUESTION], 0),
        ("2>&-", ["--stats", QUESTION], 0),
        ("<&- >&- 2>&-", [QUESTION], 0),
    ],
)
def test_a_closed_standard_stream_is_an_empty_one(
    home: Home, closing: str, arguments: list[str], status: int
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" ask "$@" {closing}', MULL, *arguments],
        env=home.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    if status:
        assert "the prompt is empty" in one_line(done, status)
    else:
        assert done.stderr == ""
        assert done.stdout == ("" if " >&-" in f" {closing}" else home.ask(QUESTION)["answer"] + "\n")


def test_how_long_an_engine_stays_is_what_it_was_told_last(home: Home) -> None:
    home.run("stop")
    stays = []
    for arguments in ([], ["--keep-alive", "1h"], []):
        home.ask(*arguments, QUESTION)
        engine = home.engine()
        assert engine is not None
        stays.append(engine["keep_alive_s"])
    assert stays == [600, 3600, 3600]


def test_two_at_once_share_one_engine(home: Home) -> None:
    home.run("stop")
    both = [home.start("ask", QUESTION) for _ in range(2)]
    answers = {process.communicate(timeout=120)[0] for process in both}
    assert len(answers) == 1 and [process.returncode for process in both] == [0, 0]
    engine = home.engine()
    assert engine is not None
    assert (home.folder / "state/mull/engine.log").read_text().count("listening") == _starts(home)


def _starts(home: Home) -> int:
    """Engines that this module started: each but the first after a `left`."""
    return (home.folder / "state/mull/engine.log").read_text().count("mull.engine left") + 1


def test_a_stale_socket_is_no_obstacle(home: Home) -> None:
    home.run("stop")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(home.socket))
    dead.close()
    assert home.run("ask", QUESTION).returncode == 0


def test_a_killed_engine_is_one_line_and_the_next_question_starts_another(home: Home) -> None:
    assert home.run("ask", QUESTION).returncode == 0
    engine = home.engine()
    assert engine is not None
    process = home.start("ask", *LONG, QUESTION)
    assert process.stdout is not None
    said = process.stdout.read(4)
    os.kill(engine["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "engine went away" in err and len(err.strip().splitlines()) == 1
    assert len(said + out) >= 4
    assert home.run("ask", QUESTION).returncode == 0


def test_an_answer_that_is_stopped_from_elsewhere_is_no_success(home: Home) -> None:
    process = home.start("ask", *LONG, QUESTION)
    assert process.stdout is not None
    said = process.stdout.read(4)
    home.run("stop")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and len(said + out) > 4 and len(err.strip().splitlines()) == 1


def test_an_answer_cut_at_its_limit_says_so(home: Home) -> None:
    done = home.run("ask", "--max-tokens", "1", QUESTION)
    assert done.returncode == 0 and done.stdout.strip() and "token limit" in done.stderr


def test_an_interrupt_ends_with_130_and_stops_the_answer(home: Home) -> None:
    process = home.start("ask", *LONG, QUESTION)
    assert process.stdout is not None
    process.stdout.read(4)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    for _ in range(100):
        engine = home.engine()
        assert engine is not None
        if not engine["answering"]:
            break
        time.sleep(0.05)
    assert engine["answering"] == 0


def test_an_engine_without_keep_alive_leaves_with_its_client(home: Home) -> None:
    home.run("stop")
    assert home.run("ask", "--keep-alive", "0", QUESTION).returncode == 0
    for _ in range(200):
        if home.engine() is None:
            return
        time.sleep(0.05)
    pytest.fail("the engine stays")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([""], 2, "the prompt is empty"),
        (["   "], 2, "the prompt is empty"),
        (["--method", "cott", "x"], 2, "did you mean 'cot'"),
        (["--profile", "rtx-4091", "x"], 2, "rtx-4090"),
        (["--device", "tpu", "x"], 2, "cuda"),
        (["--model", "/nowhere/at/all", "x"], 1, "/nowhere/at/all"),
        (["--think", "some", "x"], 2, "off, max or a number"),
        (["--think", "off", "--method", "cot", "x"], 2, "thinking is off"),
        (["--max-tokens", "0", "x"], 2, "--max-tokens"),
        (["1 + 1 " * 5000], 3, "context"),
    ],
)
def test_bad_input_is_one_clear_line(home: Home, arguments: list[str], status: int, words: str) -> None:
    assert words in one_line(home.run("ask", *arguments), status)


def test_a_broken_model_folder_is_one_clear_line_and_leaves_the_engine_usable(home: Home) -> None:
    broken = home.folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{not json")
    assert "config.json" in one_line(home.run("ask", "--model", str(broken), "x"), 1)
    assert home.run("ask", QUESTION).returncode == 0


def test_an_environment_variable_is_below_a_flag(home: Home) -> None:
    home.environment["MULL_THINK"] = "off"
    try:
        assert home.ask(QUESTION)["method"] == "direct"
        assert home.ask("--think", "16", QUESTION)["method"] == "cot"
    finally:
        del home.environment["MULL_THINK"]


def test_a_simulated_profile_predicts_and_says_so(home: Home) -> None:
    receipt = home.ask("--profile", "rtx-4090", QUESTION)["receipt"]
    assert "predicted" in receipt["environment"]["profile"]
    assert receipt["speed"]["mbu"]["value"] is None and receipt["energy"]["total"]["value"] is None
    roofline = receipt["speed"]["roofline_tok_s"]
    assert roofline["value"] > 0 and "predicted" in roofline["source"]


def test_a_closed_pipe_ends_silently(home: Home) -> None:
    process = home.start("ask", *LONG, QUESTION)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(4)
    process.stdout.close()
    assert process.wait(60) in (0, 141)
    assert process.stderr.read() == ""


def test_every_home_is_its_own(home: Home, tmp_path: Path) -> None:
    assert Home(tmp_path).engine() is None


def test_a_folder_named_as_the_bundled_model_does_not_take_its_place(home: Home) -> None:
    folder = home.folder / "tiny"
    folder.mkdir()
    try:
        (folder / "config.json").write_text("{}")
        assert home.ask("--model", "tiny", QUESTION)["answer"]
        assert "config.json" in one_line(home.run("ask", "--model", "./tiny", QUESTION), 1)
    finally:
        shutil.rmtree(folder)


def test_a_budget_holds_for_all_that_an_answer_spends(home: Home) -> None:
    answer = home.ask("--budget", "90tok", "--budget", "1min,900MFLOP", "What is 48 + 26 - 11 + 8?")
    by_unit = {state["limit"]["unit"]: state for state in answer["receipt"]["budget"]}
    assert set(by_unit) == {"tok", "s", "FLOP"}
    assert all(state["spent"]["value"] <= state["limit"]["amount"] for state in by_unit.values())
    assert by_unit["FLOP"]["spent"]["value"] == answer["receipt"]["compute"]["flops"]["total"]["value"]


@pytest.mark.parametrize("budget", ["5 parsecs", "0tok", "-3s", "7"])
def test_a_budget_that_is_none_is_refused_in_one_line(home: Home, budget: str) -> None:
    line = one_line(home.run("ask", "--budget", budget, QUESTION), 2)
    assert "--budget" in line and "2000tok, 30s, 2kJ or 5TFLOP" in line


def test_joules_that_are_estimated_are_called_so(home: Home) -> None:
    done = home.run("ask", "--budget", "500J", QUESTION)
    assert done.returncode == 0 and "estimated" in done.stderr


def test_a_minimum_of_thought_is_kept_and_one_above_the_maximum_is_refused(home: Home) -> None:
    tokens = home.ask("--min-think", "60", QUESTION)["receipt"]["tokens"]
    assert tokens["thinking"] + tokens["forced"] >= 60
    assert "at least 60" in one_line(home.run("ask", "--min-think", "60", "--think", "20", QUESTION), 2)
