"""The step checker: wrong lines are found, right ones and unknown ones are left alone."""

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tasks.registry import FAMILIES, sample
from engine.tasks.steps import CHECK_PHRASE, check_line, first_wrong_line

# Families all of whose slips stand in lines that can be worked out.
ARITHMETIC = (
    *("addition", "subtraction", "multiplication", "long_multiplication", "chain", "long_chain"),
    *("expression", "story", "word_problem", "variables", "program", "date", "countdown"),
)


def _thought(lines: tuple[str, ...]) -> str:
    return "".join(line + "\n" for line in lines)


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32), tail=st.booleans())
def test_a_right_thought_never_raises_an_alarm(family: str, seed: int, tail: bool) -> None:
    rng = random.Random(seed)
    chosen = FAMILIES[family]
    problem = sample(family, rng, "train", rng.choice((*chosen.levels, *chosen.unseen_levels)))
    lines = problem.solution.lines
    if tail:
        lines = (*lines, f"So {problem.answer}.", f"Check: {lines[-1]}", CHECK_PHRASE, *lines)
    assert first_wrong_line(_thought(lines)) is None


@pytest.mark.parametrize("family", ARITHMETIC)
@given(seed=st.integers(0, 2**32))
def test_a_planted_slip_is_the_first_wrong_line(family: str, seed: int) -> None:
    rng = random.Random(seed)
    problem = sample(family, rng, "train")
    if not problem.slippable:  # a program that ends in a condition
        return
    step = rng.choice(problem.slippable)
    thought = _thought(problem.solve_with_mistake(step, seed).lines)
    found = first_wrong_line(thought)
    assert found is not None
    assert found.index == step
    assert thought[: found.end].endswith(found.line + "\n")


@pytest.mark.parametrize(
    "line",
    [
        *("3 + 4 = 8", "4+7+1=12:33", "x = 3 + 4 = 8", "2*(3+4)=15", "12/4=4", "Step 1: 3+4=8", "1. 3+4=8"),
        *(
            "3+4=7=8",
            "10+12=23 no",
            "14 - 5 = 8.",
            "3×4=13",
            "12>10 no",
            "7>9 yes",
            "8+7=15 15 no",
            "8+7=15 48 yes",
            "2 x=x+5=7+5=11",
        ),
    ],
)
def test_a_wrong_line_is_wrong(line: str) -> None:
    assert check_line(line) == "wrong"


@pytest.mark.parametrize(
    "line",
    [
        *("3 + 4 = 7", "4+7+1=12:22", "x = 3 + 4 = 7", "2*(3+4)=14", "12/4=3", "10+12=22 left 22 5"),
        *(
            "14 - 5 = 9.",
            "12 x 3 = 36",
            "12>10 yes",
            "8+7=15 48 no",
            "8+7=15 15 yes",
            "5-9-0+10=6:6",
            "t=w+12=16+12=28",
        ),
    ],
)
def test_a_right_line_is_right(line: str) -> None:
    assert check_line(line) == "right"


@pytest.mark.parametrize(
    "line",
    [
        *("", "=", "3=4", "10/3=3", "24 = 2 dozen", "3 apples + 4 = 8", "-3+4=2", "2^3+1=8", "1/0=3"),
        *("3+4=7 (mod 5)", "3+4=7.5", "0.5+1=2", "Fay > Gus", "1+1=3 in this story", "a+b=c", "(3+4=9"),
        *("9" * 500 + "+1=2", "1+" * 99 + "1=3", "f(2)=3+4=8", "- 3 + 4 = 1"),
        "x" * 180 + "!=3+4=8",  # read in time that does not explode
    ],
)
def test_a_line_of_another_form_is_neither(line: str) -> None:
    assert check_line(line) == "unknown"


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    found = first_wrong_line(text)
    assert found is None or text[: found.end].endswith(found.line + "\n")


@given(
    st.integers(0, 10**6 - 1), st.integers(0, 10**6 - 1), st.sampled_from("+-*"), st.integers(0, 10**12 - 1)
)
def test_the_verdict_on_a_plain_line_is_that_of_integers(a: int, b: int, sign: str, said: int) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert check_line(f"{a}{sign}{b}={said}") == ("right" if said == value else "wrong")
    if value >= 0:
        assert check_line(f"{a} {sign} {b} = {value}") == "right"


def test_a_line_still_being_written_is_not_judged() -> None:
    assert first_wrong_line("3+4=7\n7+5=1") is None
    assert first_wrong_line("3+4=7\n7+5=1\n") is not None


def test_checking_steps_loads_no_torch() -> None:
    code = "import sys, engine.tasks.steps; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "set()"
