"""Votes: plain and weighted against one greedy answer, and what stopping early saves.

    python tests/benchmarks/voting.py --model tiny --problems 500 --seeds 3 --tier hard

Each problem is answered once greedily, and SAMPLES times with all that a vote would weigh kept; every rule is
then applied to the same samples. `vote:16` as it runs stops by `voting.next_wave`, which is applied to the
samples in their order: they are those that it would have drawn. Tokens are those of thoughts and answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from engine.meter.receipt import Clock
from engine.protocol import AnswerRequest, Event, Message, ModelSpec, Sampling
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.tasks.answer_types import compare
from engine.tasks.problem import Problem
from engine.tasks.registry import Tier, problem_set
from engine.thinking.confidence import confidence
from engine.thinking.context import Context
from engine.thinking.methods import METHODS, Method
from engine.thinking.methods.samples import sampled
from engine.thinking.run import Steering, answer
from engine.thinking.voting import count, next_wave

SAMPLES = 16
VOTERS = 8


@dataclass(frozen=True)
class Sample:
    """One answer, and what its vote may weigh."""

    right: bool
    label: str
    tokens: int
    log_p: float
    entropy: float
    mean: float
    lowest: float
    certainty: float


WEIGHTS = {
    "plain": lambda one: 1.0,
    "exp(log p)": lambda one: math.exp(one.log_p),
    "exp(10 log p)": lambda one: math.exp(10 * one.log_p),
    "exp(40 log p)": lambda one: math.exp(40 * one.log_p),
    "exp(-10 entropy)": lambda one: math.exp(-10 * one.entropy),
    "mean confidence": lambda one: one.mean,
    "lowest confidence": lambda one: one.lowest,
    "self-certainty": lambda one: one.certainty,
}


async def main() -> None:
    options = arguments()
    backend = open_backend(ModelSpec(model=options.model, threads=1))
    kept: list[Context] = []

    async def all_of_them(ctx: Context) -> None:
        await ctx.prefill()
        ctx.watch = True
        kept[:] = await sampled(ctx, ctx.number)

    METHODS["all"] = Method("all", thinks=True, run=all_of_them, number=SAMPLES, samples=True)
    rows: list[tuple[bool, list[Sample]]] = []
    for seed in range(options.seeds):
        for problem in problem_set(options.problems, seed + 1, tier=options.tier):
            greedy = await ask(backend, problem, "cot", Sampling(temperature=0))
            await ask(backend, problem, f"all:{SAMPLES}", Sampling(seed=seed))
            rows.append((problem.accepts(greedy), measured(problem, kept)))
            if options.out:
                options.out.write_text(json.dumps([(g, [asdict(s) for s in r]) for g, r in rows]))
    backend.close()
    report(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tier", choices=get_args(Tier), default="standard")
    parser.add_argument("--out", type=Path, help="keep the samples in a JSON file")
    return parser.parse_args()


async def ask(backend: LocalBackend, problem: Problem, method: str, sampling: Sampling) -> str:
    request = AnswerRequest(
        id="a",
        spec=ModelSpec(),
        messages=(Message("user", problem.question),),
        method=method,
        sampling=sampling,
        bulk=True,
    )
    now = time.monotonic_ns()
    return (await answer(request, backend, unheard, Steering(), Clock(now, now, 0.0))).answer


def unheard(event: Event) -> None:
    pass


def measured(problem: Problem, candidates: list[Context]) -> list[Sample]:
    labels = compare([one.answer for one in candidates], question=problem.question).labels
    found = []
    for one, label in zip(candidates, labels, strict=True):
        sure = confidence(one.watched)
        assert sure is not None
        found.append(
            Sample(
                right=problem.accepts(one.answer.strip()),
                label=label,
                tokens=one.tally.thinking_tokens + one.tally.answer_tokens,
                log_p=statistics.fmean(watch.chosen for watch in one.watched),
                entropy=sure.entropy,
                mean=sure.mean,
                lowest=sure.lowest,
                certainty=sure.self_certainty,
            )
        )
    return found


def voted(samples: list[Sample], weight: str) -> bool:
    """Whether the answer with most weight is right."""
    weigh = WEIGHTS[weight]
    entries = [(str(at), "", weigh(one)) for at, one in enumerate(samples)]
    votes = count(entries, [one.label for one in samples])
    return bool(votes) and samples[int(votes[0].candidates[0])].right


def adaptive(samples: list[Sample], weight: str) -> list[Sample]:
    """Those that `vote:16` would have drawn."""
    drawn, wave = 0, next_wave((), 0, len(samples))
    while wave:
        drawn += wave
        entries = [(str(at), "", WEIGHTS[weight](one)) for at, one in enumerate(samples[:drawn])]
        votes = count(entries, [one.label for one in samples[:drawn]])
        wave = next_wave(votes, drawn, len(samples))
    return samples[:drawn]


def report(rows: list[tuple[bool, list[Sample]]]) -> None:
    greedy = np.array([right for right, _ in rows], float)
    single = statistics.fmean(one.right for _, samples in rows for one in samples)
    print(f"{len(rows)} answers: greedy {greedy.mean():.3f}, one sample {single:.3f}")
    plain = np.array([voted(samples[:VOTERS], "plain") for _, samples in rows], float)
    for weight in WEIGHTS:
        right = np.array([voted(samples[:VOTERS], weight) for _, samples in rows], float)
        low, high = interval(right - plain)
        print(
            f"vote of {VOTERS}, {weight:18} {right.mean():.3f}  "
            f"against plain {right.mean() - plain.mean():+.3f} [{low:+.3f}, {high:+.3f}]  "
            f"against greedy {right.mean() - greedy.mean():+.3f}"
        )
    for weight in ("plain", "exp(log p)", "exp(10 log p)", "exp(40 log p)"):
        fixed = np.array([voted(samples, weight) for _, samples in rows], float)
        drawn = [adaptive(samples, weight) for _, samples in rows]
        right = np.array([voted(samples, weight) for samples in drawn], float)
        tokens = sum(one.tokens for samples in drawn for one in samples)
        share = tokens / sum(one.tokens for _, samples in rows for one in samples)
        low, high = interval(right - fixed)
        print(
            f"vote:{SAMPLES} adaptive, {weight:14} {right.mean():.3f}  fixed {fixed.mean():.3f}  difference "
            f"{right.mean() - fixed.mean():+.3f} [{low:+.3f}, {high:+.3f}]  of its tokens {share:.3f}"
        )


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 %, paired bootstrap over answers."""
    rng = np.random.default_rng(0)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(2000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


if __name__ == "__main__":
    asyncio.run(main())
