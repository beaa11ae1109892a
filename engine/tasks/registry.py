"""The families by name, the split of their problems into training and test, and the tiers of the test."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engine.tasks.families import arithmetic, calendar, countdown, programs, running, states, stories
from engine.tasks.families.wording import Wording, dress
from engine.tasks.problem import Problem

Split = Literal["train", "test"]
# standard: as trained, other operands; hard: the highest level of each family; unseen length: levels that
# training left out; unseen wording: templates that training left out.
Tier = Literal["standard", "hard", "unseen length", "unseen wording"]
TEST_SHARE = 10  # one underlying problem in this many is held out
_MAX_DRAWS = 10_000
_EASY_LONG_SHARE = 0.25


class TooFewProblems(RuntimeError):
    """A family has fewer problems than are asked for."""


@dataclass(frozen=True)
class Family:
    """A generator of problems with its levels of difficulty and its share in the training data.

    A level is mostly a length: digits, operations, people. One that stands twice in `levels` is drawn twice
    as often. Families of long thoughts have a median of 200 tokens or more at their highest level.
    """

    name: str
    draw: Callable[[random.Random, int, Wording], Problem]
    weight: float
    levels: tuple[int, ...]
    unseen_levels: tuple[int, ...] = ()
    long: bool = False


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("addition", arithmetic.addition, 0.6, (1, 2, 2, 3, 3, 4, 4, 6), (5,)),
        Family("subtraction", arithmetic.subtraction, 0.7, (1, 2, 2, 3, 3, 4, 4, 6), (5,)),
        Family("multiplication", arithmetic.multiplication, 0.8, (1, 2, 2, 3, 3, 4, 4, 6), (5,)),
        Family(
            "long_multiplication", arithmetic.long_multiplication, 0.8, (1, 2, 3, 4, 4, 4, 4), (5,), long=True
        ),
        Family("chain", running.chain, 0.6, (2, 3, 4, 5, 6, 7)),
        Family("long_chain", running.long_chain, 0.6, (8, 9, 10, 12, 13, 15, 16, 20), (11, 14, 18)),
        Family("expression", running.expression, 0.8, (2, 3, 4, 5, 7), (6,)),
        Family("story", stories.story, 1.2, (1, 2, 3, 4, 5, 7), (6,)),
        Family("word_problem", stories.word_problem, 1.1, (1, 1, 2)),
        Family("variables", programs.variables, 1.6, (2, 3, 4, 5, 6, 8), (7,)),
        Family("program", programs.program, 1.5, (1, 2, 3, 4, 6), (5,)),
        Family("rank", states.rank, 0.8, (3, 4, 5, 6), (7,)),
        Family("order", states.order, 1.2, (3, 4, 5), (6,)),
        Family("truth", states.truth, 1.3, (2, 3, 4, 5, 6), (7,)),
        Family("coin", states.coin, 0.5, (2, 3, 4, 5, 6, 7, 8, 9), (10,)),
        Family("weekday", calendar.weekday, 0.6, (1, 2, 3), (4,)),
        Family("date", calendar.date, 0.6, (1, 2, 2, 3), (4,)),
        Family("countdown", countdown.countdown, 0.9, (1, 1, 2), long=True),
    )
}


def split_of(problem: Problem) -> Split:
    """The split by a hash of the underlying problem, so that no rewording crosses it."""
    digest = hashlib.sha256(problem.key.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % TEST_SHARE == 0 else "train"


def sample(
    family: str, rng: random.Random, split: Split, level: int | None = None, wording: Wording = "seen"
) -> Problem:
    """Draw one problem of `family` from `split`, of a trained level unless another is asked for.

    Raises KeyError for an unknown family and ValueError for a level it does not have.
    """
    chosen = FAMILIES[family]
    if level is not None and level not in (*chosen.levels, *chosen.unseen_levels):
        raise ValueError(f"{family} has no level {level}")
    for _ in range(_MAX_DRAWS):
        problem = chosen.draw(rng, rng.choice(chosen.levels) if level is None else level, wording)
        if split_of(problem) == split:
            return replace(problem, question=dress(rng, problem.question, wording))
    raise TooFewProblems(f"no {split} problem of {family} in {_MAX_DRAWS} draws")


def sample_any(rng: random.Random, split: Split, easy: bool = False) -> Problem:
    """Draw one problem from a family chosen by its weight; easy ones are of lower levels, and seldom long."""
    families = list(FAMILIES.values())
    weights = [f.weight * (_EASY_LONG_SHARE if easy and f.long else 1) for f in families]
    family = rng.choices(families, weights)[0]
    level = min(rng.choices(family.levels, k=3)) if easy else None
    return sample(family.name, rng, split, level)


def _draw_for(tier: Tier, family: Family, rng: random.Random, split: Split) -> Problem:
    if tier == "hard":
        return sample(family.name, rng, split, max(family.levels))
    if tier == "unseen length":
        return sample(family.name, rng, split, rng.choice(family.unseen_levels))
    return sample(family.name, rng, split, wording="unseen" if tier == "unseen wording" else "seen")


def problem_set(
    count: int,
    seed: int,
    split: Split = "test",
    families: Sequence[str] | None = None,
    tier: Tier = "standard",
) -> list[Problem]:
    """`count` problems, the same number of each family (within one), no underlying problem twice.

    All families by default; the tier of unseen lengths leaves out those that have none.
    """
    rng = random.Random(seed)
    names = [name for name in families or FAMILIES if tier != "unseen length" or FAMILIES[name].unseen_levels]
    problems: list[Problem] = []
    seen: set[str] = set()
    for i in range(count):
        family = FAMILIES[names[i % len(names)]]
        for _ in range(_MAX_DRAWS):
            problem = _draw_for(tier, family, rng, split)
            if problem.key not in seen:
                break
        else:
            raise TooFewProblems(f"{family.name} has too few {split} problems for a set of {count}")
        seen.add(problem.key)
        problems.append(problem)
    return problems
