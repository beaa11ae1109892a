"""The families by name, and the split of their problems into training and test."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.tasks.families import arithmetic, running, states
from engine.tasks.problem import Problem

Split = Literal["train", "test"]
TEST_SHARE = 10  # one underlying problem in this many is held out
_MAX_DRAWS = 10_000


@dataclass(frozen=True)
class Family:
    """A generator of problems and its share in the training data."""

    name: str
    draw: Callable[[random.Random], Problem]
    weight: float


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("addition", arithmetic.addition, 1.2),
        Family("subtraction", arithmetic.subtraction, 1.2),
        Family("multiplication", arithmetic.multiplication, 1.3),
        Family("chain", running.chain, 1.2),
        Family("long_chain", running.long_chain, 0.3),
        Family("expression", running.expression, 1.1),
        Family("story", running.story, 1.2),
        Family("variables", running.variables, 1.2),
        Family("rank", states.rank, 1.2),
        Family("order", states.order, 1.1),
        Family("weekday", states.weekday, 0.8),
        Family("coin", states.coin, 0.7),
    )
}


def split_of(problem: Problem) -> Split:
    """The split by a hash of the underlying problem, so that no rewording crosses it."""
    digest = hashlib.sha256(problem.key.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % TEST_SHARE == 0 else "train"


def sample(family: str, rng: random.Random, split: Split) -> Problem:
    """Draw one problem of `family` from `split`; an unknown family raises KeyError."""
    draw = FAMILIES[family].draw
    for _ in range(_MAX_DRAWS):
        problem = draw(rng)
        if split_of(problem) == split:
            return problem
    raise RuntimeError(f"no {split} problem of {family} in {_MAX_DRAWS} draws")


def sample_any(rng: random.Random, split: Split) -> Problem:
    """Draw one problem from a family chosen by its weight."""
    families = list(FAMILIES.values())
    family = rng.choices(families, [f.weight for f in families])[0]
    return sample(family.name, rng, split)


def problem_set(count: int, seed: int, split: Split = "test") -> list[Problem]:
    """`count` problems, the same number of each family (within one), no underlying problem twice."""
    rng = random.Random(seed)
    names = list(FAMILIES)
    problems: list[Problem] = []
    seen: set[str] = set()
    for i in range(count):
        for _ in range(_MAX_DRAWS):
            problem = sample(names[i % len(names)], rng, split)
            if problem.key not in seen:
                break
        else:
            raise RuntimeError(f"{names[i % len(names)]} has too few {split} problems for a set of {count}")
        seen.add(problem.key)
        problems.append(problem)
    return problems
