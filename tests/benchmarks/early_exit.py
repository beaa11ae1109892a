"""Early exit against thinking in full: python tests/benchmarks/early_exit.py [--problems 504] [--seeds 3].

Each held-out problem is thought through by `cot`, and by `exit` with each of three rules on the same marks:
DEER (the mean probability of the probed answer), Dynasor (the last answers are the same) and EAT (the entropy
of the first token after the thought no longer varies). Tokens are all that an answer took beside its prompt:
thoughts, what was forced, answers and probes. With `--system` a system message comes first: under "Check your
result." the bundled model goes on after it has its answer. Greedy; intervals of 95 % by the paired bootstrap
over problems.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from engine.backend import Backend
from engine.meter.receipt import Clock
from engine.protocol import AnswerRequest, Message, ModelSpec
from engine.setup import open_backend
from engine.tasks.problem import Problem
from engine.tasks.registry import problem_set
from engine.thinking.methods import METHODS, exit
from engine.thinking.probing import Guess
from engine.thinking.run import Steering, answer

FAMILIES = "long_chain,chain,program,variables,rank,date,weekday,story,expression,truth,order,coin"
AT_ONCE = 16
LONGEST = 512
RESAMPLES = 10_000
SAME = 2
"""Dynasor: answers in a row; with more it has hardly begun where these thoughts end."""
DECAY, SETTLED = 0.2, 1e-3
"""EAT: weight of the newest entropy in the moving averages, and the variance below which it ends."""


def dynasor(guesses: Sequence[Guess]) -> bool:
    last = {guess.answer for guess in guesses[-SAME:]}
    return len(guesses) >= SAME and len(last) == 1 and "" not in last


def eat(guesses: Sequence[Guess]) -> bool:
    mean = variance = 0.0
    for guess in guesses:
        entropy = guess.first.entropy if guess.first is not None else 0.0
        mean = (1 - DECAY) * mean + DECAY * entropy
        variance = (1 - DECAY) * variance + DECAY * (entropy - mean) ** 2
    return len(guesses) > 1 and variance / (1 - (1 - DECAY) ** len(guesses)) < SETTLED


RULES: dict[str, exit.Rule] = {"deer": exit.certain, "dynasor": dynasor, "eat": eat}


@dataclass(frozen=True)
class Outcome:
    """One answer to one problem; `thought` are the tokens of thinking alone."""

    right: bool
    tokens: int
    thought: int
    probed: int


async def solve(backend: Backend, problem: Problem, method: str, system: str) -> Outcome:
    """Thought about for at most LONGEST tokens: a small model may never end."""
    messages = (*([Message("system", system)] if system else []), Message("user", problem.question))
    request = AnswerRequest(
        id="a", spec=ModelSpec(), messages=messages, method=method, think=LONGEST, bulk=True
    )
    now = time.monotonic_ns()
    done = await answer(request, backend, lambda _: None, Steering(), Clock(now, now, 0.0))
    tokens = done.receipt.tokens
    spent = tokens.thinking + tokens.forced + tokens.answer + tokens.probe
    return Outcome(problem.accepts(done.answer), spent, tokens.thinking, tokens.probe)


async def solve_all(backend: Backend, problems: Sequence[Problem], method: str, system: str) -> list[Outcome]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(problem: Problem) -> Outcome:
        async with places:
            return await solve(backend, problem, method, system)

    return list(await asyncio.gather(*map(one, problems)))


def interval(values: np.ndarray) -> str:
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{low:+.1f} to {high:+.1f}"


def compare(full: Sequence[Outcome], early: Sequence[Outcome]) -> str:
    """Points of accuracy against `full`, and tokens as a share of its own, each with its interval."""
    drawn = np.random.default_rng(0).integers(len(full), size=(RESAMPLES, len(full)))
    points = 100 * np.array([float(b.right) - float(a.right) for a, b in zip(full, early, strict=True)])
    before, after = (np.array([one.tokens for one in side]) for side in (full, early))
    shares = 100 * after[drawn].sum(1) / before[drawn].sum(1)
    probed = 100 * sum(one.probed for one in early) / after.sum()
    return (
        f"accuracy {points.mean():+5.1f} ({interval(points[drawn].mean(1))})   tokens "
        f"{100 * after.sum() / before.sum():5.1f} % ({interval(shares)}), of them probes {probed:.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--problems", type=int, default=504, help="of each seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--families", default=FAMILIES)
    parser.add_argument("--tier", default="standard", choices=("standard", "hard"))
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--system", default="")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    backend = open_backend(ModelSpec(model=options.model, threads=options.threads))
    names = ("cot", *options.rules.split(","))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    families = options.families.split(",")
    plain = METHODS["exit"]
    for seed in range(1, options.seeds + 1):
        problems = problem_set(options.problems, seed, families=families, tier=options.tier)
        for name in names:
            if name in RULES:
                METHODS["exit"] = replace(plain, run=partial(exit.run, rule=RULES[name]))
            method = "exit" if name in RULES else name
            outcomes[name] += asyncio.run(solve_all(backend, problems, method, options.system))
    full = outcomes["cot"]
    accuracy, tokens = (np.mean([getattr(one, what) for one in full]) for what in ("right", "tokens"))
    print(f"{len(full)} answers; in full: accuracy {100 * accuracy:.1f}, {tokens:.1f} tokens each")
    for name in names[1:]:
        print(f"{name:8s} {compare(full, outcomes[name])}")
    backend.close()


if __name__ == "__main__":
    main()
