"""Are budgets kept, and used? python tests/benchmarks/budgets.py [--model tiny] [--problems 504] [--seeds 3].

Each held-out problem is answered once without a limit, and then within a random one in each unit: between a
third and 1.2 times of what the prompt, an answer's reserve and the free thought took. Tokens and FLOPs are
those that the runner and the one cost formula count; seconds run outside, around the call; joules are those
of a counter that draws a constant 50 W and is read 100 ms late. A seconds' or joules' budget counts as kept
within max(2 %, one step). A budget binds where the answer ended because of it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass
from statistics import median

from engine.backend import Drawn
from engine.meter.receipt import Clock
from engine.protocol import Answer, AnswerRequest, BudgetUnit, Limit, Message, ModelSpec, Sampling
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.tasks.registry import problem_set
from engine.thinking.run import Steering, answer

UNITS: tuple[BudgetUnit, ...] = ("tok", "FLOP", "s", "J")
TOLERANCE = 0.02
WATTS = 50.0
LAG_NS = 100_000_000
LEAST = 40
"""Tokens beside the prompt that the smallest budget pays for."""
LEAST_S = 0.3
"""Seconds of the smallest budget: what a counter that lags says in less is nothing."""


class LaggingCounter:
    """A constant draw, told in steps of LAG_NS."""

    def read(self) -> Drawn:
        now = time.monotonic_ns()
        at = now - now % LAG_NS
        return Drawn(WATTS * at / 1e9, at)


@dataclass(frozen=True)
class Kept:
    """One answer within a limit: what it spent as a share, what was allowed beyond, and how it ended."""

    share: float
    slack: float
    bound: bool
    answered: bool


async def ask(
    backend: LocalBackend, question: str, method: str, limits: tuple[Limit, ...], seed: int
) -> Answer:
    request = AnswerRequest(
        id="budget",
        spec=ModelSpec(),
        messages=(Message("user", question),),
        method=method,
        budget=limits,
        sampling=Sampling(seed=seed),
    )
    now = time.monotonic_ns()
    return await answer(request, backend, lambda event: None, Steering(), Clock(now, now, 0.0))


async def within(backend: LocalBackend, question: str, method: str, limit: Limit, seed: int) -> Kept:
    before, began = backend.runner.forwarded_tokens, time.perf_counter()
    done = await ask(backend, question, method, (limit,), seed)
    seconds = time.perf_counter() - began
    step = done.receipt.time.itl_p95.value or 0.0
    if limit.unit == "tok":
        spent, slack = backend.runner.forwarded_tokens - before, 0.0
    elif limit.unit == "FLOP":
        spent, slack = done.receipt.compute.flops.total.value or 0, 0.0
    else:
        scale = 1.0 if limit.unit == "s" else WATTS
        spent, slack = seconds * scale, max(TOLERANCE * limit.amount, step * scale)
    return Kept(
        spent / limit.amount, slack / limit.amount, done.finish == "budget", bool(done.answer.strip())
    )


async def measure(
    backend: LocalBackend, method: str, problems: int, seed: int
) -> dict[BudgetUnit, list[Kept]]:
    draw = random.Random(seed)
    kept: dict[BudgetUnit, list[Kept]] = {unit: [] for unit in UNITS}
    for problem in problem_set(problems, seed=seed):
        free = await ask(backend, problem.question, method, (), seed)
        tokens = free.receipt.tokens
        # the prompt is in the cache from here on: what is spent is what comes after it
        after = max(LEAST, tokens.forwarded() - tokens.prefilled)
        share = draw.uniform(1 / 3, 1.2)
        each = (free.receipt.compute.flops.total.value or 0) / max(1, tokens.forwarded())
        second = (free.receipt.time.decode.value or 0.0) * max(1.0, after / max(1, tokens.forwarded()))
        amounts = {
            "tok": float(max(LEAST, int(share * after))),
            "FLOP": max(LEAST, share * after) * each,
            "s": max(LEAST_S, share * second),
            "J": max(LEAST_S, share * second) * WATTS,
        }
        for unit in UNITS:
            kept[unit].append(
                await within(backend, problem.question, method, Limit(unit, amounts[unit]), seed)
            )
    return kept


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--methods", default="cot", help="apart by commas")
    parser.add_argument("--problems", type=int, default=504)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    backend = open_backend(ModelSpec(model=options.model, threads=1))
    backend.energy = LaggingCounter()
    for method in options.methods.split(","):
        together: dict[BudgetUnit, list[Kept]] = {unit: [] for unit in UNITS}
        for seed in range(1, options.seeds + 1):
            for unit, found in (await measure(backend, method, options.problems, seed)).items():
                together[unit] += found
        for unit, found in together.items():
            bound = [one.share for one in found if one.bound]
            inside = sum(one.share <= 1 + one.slack for one in found) / len(found)
            most = max(one.share for one in found)
            print(
                f"{method} {unit:>4}: n {len(found)}, within {inside:.1%} (at most {most:.3f}), "
                f"bound {len(bound)}, of it used {median(bound) if bound else float('nan'):.2f} (median), "
                f"answered {sum(one.answered for one in found) / len(found):.1%}",
                flush=True,
            )
    backend.close()


if __name__ == "__main__":
    asyncio.run(main())
