"""The problem families, checked against answers worked out again from the text of the question."""

import ast
import itertools
import random
import re
import subprocess
import sys

import pytest

from engine.tasks.problem import Problem
from engine.tasks.registry import FAMILIES, problem_set, sample, sample_any, split_of

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _draws(family: str, count: int = 300) -> list[Problem]:
    rng = random.Random(11)
    return [sample(family, rng, "train") for _ in range(count)]


def _expression_value(question: str) -> str:
    written = re.search(r"\(*\d[\d ()+*×x-]*", question)
    assert written is not None
    tree = ast.parse(re.sub("[x×]", "*", written[0]).strip(), mode="eval")
    return str(eval(compile(tree, "question", "eval")))


def _story_value(question: str) -> str:
    who, held = re.match(r"(\w+) has (\d+)", question).groups()  # type: ignore[union-attr]
    count = int(held)
    for sentence in question.split(". ")[1:]:
        number = re.search(r"\d+", sentence)
        if number is None:
            continue
        n = int(number[0])
        if "times" in sentence or "multiplied" in sentence:
            count *= n
        elif re.search(rf"{who} (buys|finds)|gives {who} ", sentence):
            count += n
        else:
            assert re.search(rf"{who} (gives|loses|sells)", sentence)
            count -= n
    return str(count)


def _variables_value(question: str) -> str:
    definitions, asked = question.split(". ")
    values: dict[str, int] = {}
    for definition in definitions.split("; "):
        letter, right = definition.split(" = ")
        values[letter] = eval(right, {}, values)
    letter = re.findall(r"\b[a-z]\b", asked)[-1]
    return str(values[letter])


def _rank_value(question: str) -> str:
    numbers = sorted(map(int, re.findall(r"\d+", question)), reverse="largest" in question)
    return str(numbers[2 if "third" in question else 1 if "second" in question else 0])


def _order_value(question: str) -> str:
    pairs = re.findall(r"(\w+) is \w+ than (\w+)", question)
    people = sorted({name for pair in pairs for name in pair})
    fitting = [
        line
        for line in itertools.permutations(people)
        if all(line.index(a) < line.index(b) for a, b in pairs)
    ]
    assert len(fitting) == 1, "the comparisons leave one order"
    asked = question.split("Who is the ")[1].rstrip("?")
    if asked in ("shortest", "youngest", "slowest"):
        return fitting[0][-1]
    return fitting[0][2 if "third" in asked else 1 if "second" in asked else 0]


def _weekday_value(question: str) -> str:
    today = next(day for day in DAYS if day in question)
    return DAYS[(DAYS.index(today) + int(re.findall(r"\d+", question)[0])) % 7]


def _coin_value(question: str) -> str:
    sides = ["tails", "heads"]
    start = sides.index(re.match(r"A coin shows (\w+)", question)[1])  # type: ignore[index]
    return sides[(start + len(re.findall(r"\w+ flips it", question))) % 2]


INDEPENDENT = {
    "addition": _expression_value,
    "subtraction": _expression_value,
    "multiplication": _expression_value,
    "chain": _expression_value,
    "long_chain": _expression_value,
    "expression": _expression_value,
    "story": _story_value,
    "variables": _variables_value,
    "rank": _rank_value,
    "order": _order_value,
    "weekday": _weekday_value,
    "coin": _coin_value,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_follows_from_the_question_alone(family: str) -> None:
    for problem in _draws(family):
        assert problem.answer == INDEPENDENT[family](problem.question), problem.question


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_draws_the_same_problems(family: str) -> None:
    first, second = ([(p.question, p.solution, p.key) for p in _draws(family, count=50)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_mistake_changes_its_line_and_none_before_it(family: str) -> None:
    for problem in _draws(family, count=100):
        right = problem.solution.lines
        for step in problem.slippable:
            wrong = problem.solve_with_mistake(step, seed=5).lines
            assert wrong[:step] == right[:step]
            assert wrong[step : step + 1] != right[step : step + 1], (problem.question, step)


def test_wordings_of_one_problem_never_fall_into_both_splits() -> None:
    """Operands read out of the question text, not the key, so that a key that forgets one would show."""
    rng = random.Random(3)
    operands: dict[str, set[tuple[str, ...]]] = {}
    for split in ("train", "test"):
        problems = [sample("addition", rng, split) for _ in range(4000)]  # type: ignore[arg-type]
        operands[split] = {tuple(sorted(re.findall(r"\d+", p.question))) for p in problems}
    assert len(operands["test"]) > 1000
    assert not operands["train"] & operands["test"]


def test_a_story_and_a_bare_chain_with_the_same_numbers_share_their_split() -> None:
    rng = random.Random(4)
    by_key: dict[str, set[tuple[str, str]]] = {}
    for _ in range(6000):
        for family in ("story", "expression", "chain"):
            problem = FAMILIES[family].draw(rng)
            if problem.level == 2:
                by_key.setdefault(problem.key, set()).add((family, split_of(problem)))
    shared = [found for found in by_key.values() if len({family for family, _ in found}) > 1]
    assert len(shared) > 20
    assert all(len({split for _, split in found}) == 1 for found in shared)


def test_about_a_tenth_of_the_problems_is_held_out() -> None:
    rng = random.Random(6)
    for family in FAMILIES.values():
        held_out = sum(split_of(family.draw(rng)) == "test" for _ in range(2000))
        assert 60 < held_out < 400, family.name


def test_a_problem_set_has_equal_families_and_no_repeats() -> None:
    problems = problem_set(240, seed=1)
    assert {sum(p.family == name for p in problems) for name in FAMILIES} == {20}
    assert len({p.key for p in problems}) == 240
    assert all(split_of(p) == "test" for p in problems)


def test_sampling_by_weight_reaches_every_family() -> None:
    rng = random.Random(8)
    assert {sample_any(rng, "train").family for _ in range(500)} == set(FAMILIES)


@pytest.mark.parametrize(
    ("reply", "accepted"),
    [
        ("14", True),
        ("The answer is **14**.", True),
        ("14 or 15", False),
        ("", False),
        ("1,014", False),
        ("28-14", True),
        ("14.5", False),
    ],
)
def test_a_reply_is_judged_by_its_last_number(reply: str, accepted: bool) -> None:
    rng = random.Random(0)
    problem = next(p for p in (sample("chain", rng, "train") for _ in range(2000)) if p.answer == "14")
    assert problem.accepts(reply) is accepted


def test_a_reply_in_words_is_judged_by_its_last_word() -> None:
    rng = random.Random(0)
    problem = next(p for p in (sample("coin", rng, "train") for _ in range(50)) if p.answer == "heads")
    assert problem.accepts("It shows Heads.")
    assert not problem.accepts("heads, no, tails")


def test_generating_problems_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, engine.tasks.examples; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "set()"
