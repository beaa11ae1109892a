"""`mull demo`: the puzzle at each budget, then the curve; on a terminal drawn in place."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cli import Home, one_line

BUDGETS = ("off", "8", "16", "32", "max")
LANE = re.compile(r"^  think +(\w+)  [━─]{12} +(\d+) tok +(\S+ \S+)  ([✓✗]) (.*)$", re.MULTILINE)
SOLVED = re.compile(r"(\d+) problems: (\d+)% \(.*?\) solved without thinking, (\d+)% ")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


def test_the_puzzle_is_answered_at_each_budget_and_then_many_are(home: Home) -> None:
    done = home.run("demo", "--seconds", "10")
    assert done.returncode == 0, done.stderr
    lanes = LANE.findall(done.stdout)
    assert tuple(budget for budget, *_ in lanes) == BUDGETS
    for budget, tokens, *_ in lanes[:-1]:
        assert int(tokens) <= (0 if budget == "off" else int(budget))
    [right] = re.findall(r"^The answer is (\S+)\. ", done.stdout, re.MULTILINE)
    for *_, mark, answer in lanes:
        assert (mark == "✓") == (answer == right)
    [(problems, least, most)] = SOLVED.findall(" ".join(done.stdout.split()))
    assert int(problems) >= 16 and 0 <= int(least) <= 100 and 0 <= int(most) <= 100
    assert "FLOPs per answer" in done.stdout


def test_a_model_that_is_not_there_is_named(home: Home) -> None:
    assert "no/such" in one_line(home.run("demo", "--model", "no/such"), 1)


def test_lines_are_drawn_over_the_last_ones() -> None:
    code = (
        "from app.cli.output import LiveLines\n"
        "lines = LiveLines()\n"
        "lines.show(['one', 'two']); lines.end(['three', '\\x1b]0;four\\x07'])"
    )
    reader, writer = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=writer, check=True, timeout=60)
    os.close(writer)
    drawn = os.read(reader, 4096).decode()
    os.close(reader)
    assert drawn.index("two") < drawn.index("\x1b[2F") < drawn.index("three")
    assert "\x1b]" not in drawn, "what a model says does not steer the terminal"
