"""Searches against samples, on held-out problems at their hardest levels: accuracy, and what it cost.

python tests/benchmarks/search.py [--methods cot,vote:8,beam:8,...] [--problems N] [--seeds N]. All are asked
of one model in this process, 16 at a time. `--scores` asks instead what tells a right thought from a wrong
one: of all pairs of thoughts to the same question, in how many the right one has the higher score.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from engine.meter.receipt import Clock
from engine.protocol import Answer, AnswerRequest, Message, ModelSpec, Sampling
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.tasks.problem import Problem
from engine.tasks.registry import problem_set
from engine.thinking.confidence import confidence
from engine.thinking.context import Context
from engine.thinking.methods import METHODS
from engine.thinking.run import Steering, answer
from engine.thinking.step_scorer import is_sound, score

PARALLEL = 16
RESAMPLES = 2000


@dataclass(frozen=True)
class Asked:
    """One answer to one problem."""

    right: bool
    tokens: int
    flops: float


async def ask(backend: LocalBackend, problem: Problem, method: str, seed: int) -> Answer:
    now = time.monotonic_ns()
    request = AnswerRequest(
        id="search",
        spec=ModelSpec(),
        messages=(Message("user", problem.question),),
        method=method,
        sampling=Sampling(seed=seed),
        max_tokens=64,
        bulk=True,
    )
    return await answer(request, backend, lambda _: None, Steering(), Clock(now, now, 0.0))


async def all_asked(backend: LocalBackend, problems: list[Problem], method: str, seed: int) -> list[Asked]:
    places = asyncio.Semaphore(PARALLEL)

    async def one(problem: Problem) -> Asked:
        async with places:
            done = await ask(backend, problem, method, seed)
        receipt = done.receipt
        sampled = receipt.tokens.forwarded() - receipt.tokens.prefilled
        return Asked(problem.accepts(done.answer), sampled, float(receipt.compute.flops.total.value or 0))

    return await asyncio.gather(*map(one, problems))


async def compare(backend: LocalBackend, options: argparse.Namespace) -> None:
    """A line for each method: accuracy, its difference to the first (paired bootstrap), tokens and FLOPs."""
    problems = problem_set(options.problems, options.set_seed, tier="hard")
    first: list[Asked] = []
    for method in options.methods.split(","):
        began = time.perf_counter()
        found = [
            one for seed in range(options.seeds) for one in await all_asked(backend, problems, method, seed)
        ]
        first = first or found
        low, high = interval([a.right - b.right for a, b in zip(found, first, strict=True)])
        print(
            f"{method:10s} {mean([one.right for one in found]):6.1%}   {low:+6.1%} … {high:+6.1%}   "
            f"{mean([one.tokens for one in found]):7.0f} tokens   "
            f"{mean([one.flops for one in found]) / 1e9:7.2f} GFLOP   {time.perf_counter() - began:5.0f} s",
            flush=True,
        )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 %, by bootstrap over the problems."""
    rng = random.Random(0)
    means = sorted(mean(rng.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    return means[RESAMPLES // 40], means[-RESAMPLES // 40]


SCORES: dict[str, Callable[[Context], float]] = {
    "lines checked": lambda one: float(is_sound(one.thinking)),
    "DeepConf's mean": lambda one: getattr(confidence(one.watched), "mean", 0.0),
    "DeepConf's lowest group": lambda one: getattr(confidence(one.watched), "lowest", 0.0),
    "entropy": lambda one: -mean([watch.entropy for watch in one.watched] or [0.0]),
    "lines and lowest group": lambda one: (
        is_sound(one.thinking) * 1e3 + getattr(confidence(one.watched), "lowest", 0.0)
    ),
    "lines and entropy": lambda one: score(one.thinking, one.watched),
}


async def scores(backend: LocalBackend, options: argparse.Namespace) -> None:
    """In how many pairs of a right and a wrong thought to one question each score knows which is which."""
    problems = problem_set(options.problems, options.set_seed, tier="hard")
    asked: list[Context] = []
    plain = METHODS["best"]

    async def listened(ctx: Context) -> None:
        asked.append(ctx)
        await plain.run(ctx)

    METHODS["best"] = replace(plain, run=listened)
    pairs: list[tuple[Context, Context]] = []
    for problem in problems:
        await ask(backend, problem, "best:8", 0)
        right = [problem.accepts(one.answer) for one in asked[-1].branches]
        pairs += [
            (one, other)
            for one, good in zip(asked[-1].branches, right, strict=True)
            for other, bad in zip(asked[-1].branches, right, strict=True)
            if good and not bad
        ]
    for name, value in SCORES.items():
        known = [(value(one) > value(other)) + (value(one) == value(other)) / 2 for one, other in pairs]
        print(f"{name:24s} {mean(known):6.1%} of {len(pairs)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--methods", default="cot,vote:8,best:8,beam:8,mcts:8")
    parser.add_argument("--problems", type=int, default=90)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set-seed", type=int, default=7)
    parser.add_argument("--scores", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backend = open_backend(ModelSpec(model=options.model, threads=options.threads))
    try:
        asyncio.run((scores if options.scores else compare)(backend, options))
    finally:
        backend.close()


if __name__ == "__main__":
    main()
