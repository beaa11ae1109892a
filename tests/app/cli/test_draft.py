"""`--draft`, from the command line to the receipt: the real command, the real engine, the bundled model."""

from collections.abc import Iterator

import pytest
from cli import Home, one_line
from random_checkpoint import save_checkpoint

QUESTION = "What is 48 + 26 - 5 + 17?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


@pytest.mark.parametrize(("draft", "drafter"), [("tiny", "tiny"), ("exit:2", "tiny exit:2")])
def test_who_drafts_is_in_the_receipt_and_the_answer_is_the_same(
    home: Home, draft: str, drafter: str
) -> None:
    plain, guessed = home.ask("--draft", "off", QUESTION), home.ask("--draft", draft, QUESTION)
    assert (guessed["thinking"], guessed["answer"]) == (plain["thinking"], plain["answer"])
    steps = guessed["receipt"]["steps"]
    assert {step["model"] for step in steps if step["primitive"] == "draft"} == {drafter}
    assert not [step for step in plain["receipt"]["steps"] if step["primitive"] in ("draft", "verify")]
    tokens = guessed["receipt"]["tokens"]
    assert tokens["draft_accepted"] + tokens["draft_rejected"] > 0


def test_the_settings_have_it_too(home: Home) -> None:
    (home.folder / "config" / "mull").mkdir(parents=True, exist_ok=True)
    # whether a good one guesses at all hangs on what guesses cost here by now
    (home.folder / "config" / "mull" / "config.toml").write_text('draft = "exit:99"\n')
    assert "from 1 to" in one_line(home.run("ask", QUESTION), 1)
    (home.folder / "config" / "mull" / "config.toml").unlink()


def test_what_cannot_draft_is_said_in_one_line(home: Home) -> None:
    save_checkpoint(home.folder / "other")
    assert "another vocabulary" in one_line(home.run("ask", "--draft", "other", QUESTION), 1)
    assert "from 1 to" in one_line(home.run("ask", "--draft", "exit:99", QUESTION), 1)
    assert "nowhere" in one_line(home.run("ask", "--draft", "nowhere", QUESTION), 1)
    assert home.ask(QUESTION)["answer"], "the engine goes on"
