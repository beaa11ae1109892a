"""A prompt computed once is not computed again by the next engine, and nothing wrong is taken for it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli import Home

PAGE = 64


@dataclass
class Asked:
    """What was answered to a long prompt, thought included, its tokens, and the files of its pages."""

    text: str
    tokens: dict[str, int]
    files: list[Path]


def prompt(name: str) -> str:
    return f"{name}: {', '.join(str(number) for number in range(150))}. What is 48 + 26?"


def pages(home: Home) -> set[Path]:
    return {*(home.folder / "cache" / "mull" / "prompts").glob("*/*.safetensors")}


def ask(home: Home, name: str) -> Asked:
    """Ask, and wait until its pages are on disk: the files that it added, the first page's first."""
    before = pages(home)
    answer = home.ask("--think", "32", prompt(name))
    tokens = answer["receipt"]["tokens"]
    wanted = len(before) + (tokens["prompt"] - tokens["cached"]) // PAGE
    for _ in range(1000):
        if len(pages(home)) >= wanted:
            break
        time.sleep(0.01)
    # each page's file names the tokens from the beginning on, so that it is longer than the one before
    files = sorted(pages(home) - before, key=lambda path: path.stat().st_size)
    return Asked(answer["thinking"] + answer["answer"], tokens, files)


def log(home: Home) -> str:
    return (home.folder / "state" / "mull" / "engine.log").read_text()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, dict[str, Asked]]]:
    """A home whose first engine has left, and what it had answered; one file is damaged, one replaced."""
    home = Home(tmp_path_factory.mktemp("home"))
    answers = {name: ask(home, name) for name in ("whole", "stats", "damaged", "replaced")}
    home.ask("--save", prompt("conversation"))
    assert home.run("stop").returncode == 0
    damaged, replaced = answers["damaged"].files[3], answers["replaced"].files[2]
    content = bytearray(damaged.read_bytes())
    content[-1000] ^= 4
    damaged.write_bytes(content)
    replaced.write_bytes(answers["replaced"].files[3].read_bytes())
    (damaged.parent / "notes.txt").write_text("mine")
    yield home, answers
    home.close()


def test_the_next_engine_takes_a_prompt_from_disk_and_gives_the_same_answer(
    first: tuple[Home, dict[str, Asked]],
) -> None:
    home, answers = first
    cold, again = answers["whole"], ask(home, "whole")
    assert (cold.tokens["cached"], cold.tokens["restored"]) == (0, 0)
    assert again.text == cold.text
    assert again.tokens["restored"] == again.tokens["cached"] == (cold.tokens["prompt"] - 1) // PAGE * PAGE
    assert again.tokens["restored"] + again.tokens["prefilled"] == again.tokens["prompt"]
    third = ask(home, "whole")
    assert third.text == cold.text and third.tokens["restored"] == 0, "it is in memory now"
    assert third.tokens["cached"] == third.tokens["prompt"] - 1


def test_statistics_say_what_came_from_disk(first: tuple[Home, dict[str, Asked]]) -> None:
    done = first[0].run("ask", "--stats", prompt("stats"))
    assert " cached (" in done.stderr and " from disk)" in done.stderr


def test_a_conversation_goes_on_from_disk(first: tuple[Home, dict[str, Asked]]) -> None:
    assert first[0].ask("--continue", "What is 12 + 30?")["receipt"]["tokens"]["restored"] > 512


def test_a_flipped_bit_and_another_page_are_noticed_and_answers_stay_the_same(
    first: tuple[Home, dict[str, Asked]],
) -> None:
    home, answers = first
    for name, sound, note in (
        ("damaged", 3, "damaged: its checksum differs"),
        ("replaced", 2, "cut short, or not a page of this model"),
    ):
        again = ask(home, name)
        assert again.text == answers[name].text and again.tokens["restored"] == sound * PAGE
        assert f"{answers[name].files[sound]} was ignored: {note}" in log(home)
        engine = home.engine()
        assert engine is not None
        assert {"reason": note, "files": 1} in engine["prompt_store"]["ignored"]
        assert {*answers[name].files} <= pages(home), "it was written anew"
        assert f"files ignored: 1, {note}" in home.run("doctor").stdout
    notes = answers["damaged"].files[0].parent / "notes.txt"
    assert notes.read_text() == "mine" and f"left alone: {notes}" in home.run("doctor").stdout


def test_an_engine_that_is_killed_harms_no_other_and_one_without_a_store_removes_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    try:
        text = home.ask("--think", "32", prompt("killed"))["thinking"]
        engine = home.engine()
        assert engine is not None
        os.kill(engine["pid"], signal.SIGKILL)
        again = home.ask("--think", "32", prompt("killed"))
        assert again["thinking"] == text and again["receipt"]["tokens"]["restored"] % PAGE == 0
        assert "ignored" not in log(home)
        home.run("stop")
        assert pages(home)
        settings = home.folder / "config" / "mull" / "config.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text('prompt_store = "off"')
        shown = {row["id"]: row["value"] for row in json.loads(home.run("config", "--json").stdout)}
        assert shown["prompt_store"] == 0
        off = home.ask("--think", "32", prompt("killed"))
        assert off["thinking"] == text and off["receipt"]["tokens"]["restored"] == 0
        home.run("stop")
        assert pages(home) == set()
    finally:
        home.close()
