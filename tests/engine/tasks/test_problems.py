"""The problem families, checked against answers worked out again from the text of the question."""

import ast
import datetime
import itertools
import random
import re
import statistics
import subprocess
import sys

import pytest

from engine.tasks.families.countdown import reaches
from engine.tasks.families.wording import Wording
from engine.tasks.problem import Problem
from engine.tasks.registry import FAMILIES, problem_set, sample, sample_any, split_of

MONTHS = [datetime.date(2027, month, 1).strftime("%B") for month in range(1, 13)]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _draw(family: str, rng: random.Random, level: int | None = None, wording: Wording = "seen") -> Problem:
    """As the family draws it, without the words before and after that `sample` may add."""
    chosen = FAMILIES[family]
    return chosen.draw(rng, rng.choice(chosen.levels) if level is None else level, wording)


def _draws(family: str, count: int = 300, wording: Wording = "seen") -> list[Problem]:
    """So many problems, unseen levels among them."""
    rng = random.Random(11)
    chosen = FAMILIES[family]
    levels = (*chosen.levels, *chosen.unseen_levels)
    return [_draw(family, rng, rng.choice(levels), wording) for _ in range(count)]


def _expression_value(question: str) -> str:
    for sign, word in (("+", " plus "), ("-", " minus "), ("*", " times ")):
        question = question.replace(word, sign)
    written = re.search(r"\(*\d[\d ()+*×x-]*", question)
    assert written is not None
    tree = ast.parse(re.sub("[x×]", "*", written[0]).strip(), mode="eval")
    return str(eval(compile(tree, "question", "eval")))


def _story_value(question: str) -> str:
    first, *sentences = question.split(". ")
    begins = r"(?:At first |There are \d+ \w+ in |In the (?:morning|beginning) |To begin with, )?([A-Z]\w+)"
    who = re.match(begins, first)[1]  # type: ignore[index]
    count = int(re.search(r"\d+", first)[0])  # type: ignore[index]
    for sentence in sentences:
        number = re.search(r"\d+", sentence)
        if number is None:
            continue
        n = int(number[0])
        if "times" in sentence or "multiplied" in sentence:
            count *= n
        elif re.search(
            rf"{who} (buys|finds|gets|wins|receives|picks|collects|earns|takes|borrows|is given|makes|adds)"
            rf"|(gives|sends) {who} |are added|brings|come from"
            rf"|{who} \w+s (?:up )?\d+ more|[A-Z]\w+ \w+s {who} \d+ more",
            sentence,
        ):
            count += n
        else:
            assert re.search(
                rf"{who} (gives|loses|sells|hands|passes|sends|shows|throws|breaks|lends|uses|leaves)"
                r"|takes|borrows|lost|go missing|break|stolen|disappear|fall"
                rf"|{who} \w+s \d+ (?:to|of)|\d+ of them \w+",
                sentence,
            ), sentence
            count -= n
    return str(count)


WORD_PROBLEMS = {
    r"(?P<a>\d+) (?:boxes|bags)(?: with| of| holds) (?P<b>\d+) (?!.* more ).*?(?P<c>\d+)": "a * b - c",
    r"(?P<a>\d+) boxes with (?P<b>\d+) .* and (?P<c>\d+) more": "a * b + c",
    r"goes (?P<b>\d+) km every hour for (?P<a>\d+) hours, then (?P<c>\d+) km more": "a * b + c",
    r"reads (?P<b>\d+) pages a day for (?P<a>\d+) days and (?P<c>\d+) pages more": "a * b + c",
    r"earns (?P<b>\d+) coins a day. After (?P<a>\d+) days \w+ adds (?P<c>\d+)": "a * b + c",
    r"saves (?P<b>\d+) dollars a week. In (?P<a>\d+) weeks .* gives (?P<c>\d+) more": "a * b + c",
    r"bakes (?P<b>\d+) cakes a day. After (?P<a>\d+) days \w+ bakes (?P<c>\d+) more": "a * b + c",
    r"makes (?P<b>\d+) \w+ every day for (?P<a>\d+) days, then (?P<c>\d+)": "a * b + c",
    r"plants (?P<a>\d+) rows of (?P<b>\d+) trees and (?P<c>\d+) more": "a * b + c",
    r"buys (?P<a>\d+) \w+ at (?P<b>\d+) dollars each and pays with (?P<c>\d+) ": "c - a * b",
    r"costs (?P<b>\d+) dollars. \w+ has (?P<c>\d+) dollars and buys (?P<a>\d+) ": "c - a * b",
    r"has (?P<c>\d+) dollars. (?P<a>\d+) \w+ cost (?P<b>\d+) dollars each": "c - a * b",
    r"pays with (?P<c>\d+) dollars for (?P<a>\d+) \w+ that cost (?P<b>\d+) dollars each": "c - a * b",
    r"has (?P<c>\d+) dollars and spends (?P<b>\d+) dollars on each of (?P<a>\d+) days": "c - a * b",
    r"With (?P<c>\d+) dollars \w+ buys (?P<a>\d+) \w+ for (?P<b>\d+) dollars each": "c - a * b",
    r"(?P<c>\d+) dollars are in the box. \w+ takes out (?P<b>\d+) dollars (?P<a>\d+) times": "c - a * b",
    r"(?:has|found) (?P<a>\d+) \w+(?:\.| and) \w+ (?:has|found) (?P<b>\d+) more": "a + (a + b)",
    r"has (?P<b>\d+) \w+ more than \w+, who has (?P<a>\d+)": "a + (a + b)",
    r"has (?P<b>\d+) more \w+ than \w+. \w+ has (?P<a>\d+)": "a + (a + b)",
    r"owns (?P<a>\d+) \w+, and \w+ owns (?P<b>\d+) more": "a + (a + b)",
    r"(?:has|found) (?P<a>\d+) \w+. \w+ (?:has|found) (?P<b>\d+) times": "a + a * b",
    r"has (?P<b>\d+) times as many \w+ as \w+. \w+ has (?P<a>\d+)": "a + a * b",
    r"owns (?P<a>\d+) \w+, \w+ (?P<b>\d+) times": "a + a * b",
    r"keeps (?P<a>\d+) \w+ and \w+ keeps (?P<b>\d+) times": "a + a * b",
    r"owns (?P<b>\d+) times as many \w+ as \w+, who has (?P<a>\d+)": "a + a * b",
    r"is (?P<a>\d+)(?: years old)?(?:\.|,| and) \w+ is (?:younger by )?(?P<b>\d+) y.*?(?P<c>\d+) times": (
        "(a - b) * c"
    ),
    r"is (?P<b>\d+) years younger than \w+, who is (?P<a>\d+).*?(?P<c>\d+) times": "(a - b) * c",
    r"(?P<a>\d+) \w+ and (?:gets |another |\w+ )?(?P<c>\d+)\b.*?(?:by|among|between) (?P<b>\d+) ": (
        "(a + c) // b"
    ),
    r"(?P<a>\d+) \w+ here and (?P<c>\d+) there. (?P<b>\d+) friends": "(a + c) // b",
}


def _word_problem_value(question: str) -> str:
    for pattern, formula in WORD_PROBLEMS.items():
        found = re.search(pattern, question)
        if found is None:
            continue
        values = {name: int(number) for name, number in found.groupdict().items()}
        more = re.search(r"\d+", question[found.end() :])
        return str(eval(formula, {}, values) + (int(more[0]) if more else 0))
    raise AssertionError(question)


def _variables_value(question: str) -> str:
    definitions = re.findall(r"\b([a-z]) = ((?:[a-z] [+-] )?\d+)", question)
    values: dict[str, int] = {}
    for letter, right in definitions:
        values[letter] = eval(right, {}, values)
    return str(values[re.findall(r"\b[a-z]\b", question)[-1]])


def _program_value(question: str) -> str:
    code = [line for line in question.splitlines() if re.search(r" = |print\(", line)]
    printed: list[int] = []
    exec("\n".join(code), {"print": printed.append})
    return str(printed[0])


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
    asked = question.rsplit(". ", 1)[1]
    if any(word in asked for word in ("shortest", "youngest", "slowest", "poorest")):
        return fitting[0][-1]
    return fitting[0][2 if "third" in asked else 1 if "second" in asked else 0]


def _weekday_value(question: str) -> str:
    today = next(day for day in DAYS if day in question)
    days = int(re.findall(r"\d+", question)[0])
    back = re.search(r"\b(was|before|back)\b", question) is not None
    return DAYS[(DAYS.index(today) + (-days if back else days)) % 7]


def _date_value(question: str) -> str:
    pattern = rf"(\d+) ({'|'.join(MONTHS)})|({'|'.join(MONTHS)}) (\d+)"
    found = re.search(pattern, question)
    assert found is not None
    day, month = int(found[1] or found[4]), MONTHS.index(found[2] or found[3]) + 1
    days = int(re.findall(r"\d+", re.sub(pattern, "", question, count=1))[0])
    end = datetime.date(2027, month, day) + datetime.timedelta(days)
    return f"{end.day} {MONTHS[end.month - 1]}"


def _coin_value(question: str) -> str:
    begins, _, rest = question.partition(" up." if " up." in question.split(". ")[0] + ". " else ".")
    side = "heads" in begins
    for sentence in rest.split("."):
        if re.search(r"not|leaves|\?|Tell", sentence) or not sentence.strip():
            continue
        assert re.search(r"flips|turns", sentence), sentence
        side = not side
    return "heads" if side else "tails"


def _truth_value(question: str) -> str:
    first, *claims, asked = re.split(r"(?<=\.) ", question)
    truthful = "tells the truth|honest|never lies|does not lie|never wrong|only says what is true"
    honest = {first.split()[0]: bool(re.search(truthful, first))}
    honest[first.split()[0]] &= "never tells the truth" not in first
    for claim in claims:
        speaker, about, said = re.match(  # type: ignore[union-attr]
            r"(\w+) (?:says|claims|told me|\w+s(?: us| you)?)(?: that)? (\w+) (.*)\.", claim
        ).groups()
        honest[speaker] = honest[about] == (said == "tells the truth")
    person = next(name for name in honest if re.search(rf"\b{name}\b", asked))
    return "yes" if honest[person] else "no"


INDEPENDENT = {
    "addition": _expression_value,
    "subtraction": _expression_value,
    "multiplication": _expression_value,
    "long_multiplication": _expression_value,
    "chain": _expression_value,
    "long_chain": _expression_value,
    "expression": _expression_value,
    "story": _story_value,
    "word_problem": _word_problem_value,
    "variables": _variables_value,
    "program": _program_value,
    "rank": _rank_value,
    "order": _order_value,
    "weekday": _weekday_value,
    "date": _date_value,
    "truth": _truth_value,
    "coin": _coin_value,
}


@pytest.mark.parametrize("wording", ["seen", "unseen"])
@pytest.mark.parametrize("family", INDEPENDENT)
def test_the_answer_follows_from_the_question_alone(family: str, wording: Wording) -> None:
    for problem in _draws(family, wording=wording):
        assert problem.answer == INDEPENDENT[family](problem.question), problem.question


def test_every_family_but_the_one_with_many_answers_is_worked_out_independently() -> None:
    assert set(FAMILIES) - set(INDEPENDENT) == {"countdown"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_accepted_by_the_problem_itself(family: str) -> None:
    for problem in _draws(family, 100):
        assert problem.accepts(problem.answer)
        assert not problem.accepts("I do not know.")


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
            problem = _draw(family, rng, 2)
            by_key.setdefault(problem.key, set()).add((family, split_of(problem)))
    shared = [found for found in by_key.values() if len({family for family, _ in found}) > 1]
    assert len(shared) > 20
    assert all(len({split for _, split in found}) == 1 for found in shared)


def test_about_a_tenth_of_the_problems_is_held_out() -> None:
    rng = random.Random(6)
    for family in FAMILIES.values():
        held_out = sum(split_of(_draw(family.name, rng)) == "test" for _ in range(2000))
        assert 60 < held_out < 400, family.name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_level_has_held_out_problems(family: str) -> None:
    rng = random.Random(7)
    for level in (*FAMILIES[family].levels, *FAMILIES[family].unseen_levels):
        problem = sample(family, rng, "test", level)
        assert problem.level == level
        assert split_of(problem) == "test"


def test_a_level_that_a_family_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="addition has no level 77"):
        sample("addition", random.Random(0), "train", 77)


def test_lengths_and_wordings_of_their_own_tiers_never_come_up_in_training() -> None:
    rng = random.Random(9)
    trained = [sample_any(rng, "train") for _ in range(3000)]
    assert all(p.level not in FAMILIES[p.family].unseen_levels for p in trained)
    drawn = "|".join((r"\d+", *DAYS, *MONTHS))
    frames = {re.sub(drawn, "#", p.question) for p in trained}
    unseen = problem_set(60, 2, tier="unseen wording", families=["rank", "weekday", "date", "countdown"])
    assert not frames & {re.sub(drawn, "#", p.question) for p in unseen}


def test_a_set_of_a_tier_holds_the_levels_of_that_tier() -> None:
    assert all(p.level == max(FAMILIES[p.family].levels) for p in problem_set(54, 1, tier="hard"))
    longer = problem_set(54, 1, tier="unseen length")
    assert all(p.level in FAMILIES[p.family].unseen_levels for p in longer)
    assert {p.family for p in longer} == {f.name for f in FAMILIES.values() if f.unseen_levels}
    assert {p.family for p in problem_set(10, 1, families=["coin", "date"])} == {"coin", "date"}


@pytest.mark.parametrize("family", [f.name for f in FAMILIES.values() if f.long])
def test_the_long_families_think_long(family: str) -> None:
    hard = problem_set(60, 1, families=[family], tier="hard")
    lengths = [len("\n".join(p.solution.lines)) for p in hard]
    assert statistics.median(lengths) >= 250  # characters; at least 200 tokens


def test_a_problem_set_has_equal_families_and_no_repeats() -> None:
    problems = problem_set(360, seed=1)
    assert {sum(p.family == name for p in problems) for name in FAMILIES} == {20}
    assert len({p.key for p in problems}) == 360
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


@pytest.mark.parametrize(
    ("reply", "accepted"),
    [("4 May", True), ("It is the 4th of May.", True), ("May 4", True), ("5 May", False), ("4 April", False)],
)
def test_a_date_is_accepted_however_it_is_written(reply: str, accepted: bool) -> None:
    rng = random.Random(1)
    problem = next(p for p in (_draw("date", rng) for _ in range(9000)) if p.answer == "4 May")
    assert problem.accepts(reply) is accepted


@pytest.mark.parametrize(
    ("reply", "accepted"),
    [
        ("(7-3)*12", True),
        ("12*(7-3)", True),
        ("12 x 7 - 12 x 3", False),  # twelve twice
        ("The answer is (7 - 3) * 12 = 48.", True),
        ("7*3+12+15", False),  # a number that was not given
        ("40+8", False),
        ("48", False),
        ("(7-3*12", False),
        ("((" * 300, False),
        ("__import__('os')", False),
        ("7**3-12", False),
        ("", False),
    ],
)
def test_countdown_takes_any_expression_of_the_numbers_that_reaches_the_target(
    reply: str, accepted: bool
) -> None:
    assert reaches(reply, [7, 3, 12], 48) is accepted
