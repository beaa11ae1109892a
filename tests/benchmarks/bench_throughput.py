"""Answers per second of a bench, many at once against one at a time, in turn:

python tests/benchmarks/bench_throughput.py [--problems N] [--think N]. Both go through a resident engine of
their own, as `mull bench` asks it; greedy, with the same problems.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.client import Places, ResidentEngine, resident
from engine.protocol import Answer, AnswerRequest, Failed, Finished, Message, ModelSpec, Sampling, Think
from engine.tasks.registry import problem_set


@dataclass(frozen=True)
class Pass:
    """All problems answered once."""

    answers: list[Answer]
    seconds: float
    processor: float
    """Seconds of the engine's process: what other programs take of the machine is not in them."""

    @property
    def tokens(self) -> int:
        """Sampled."""
        return sum(one.receipt.tokens.thinking + one.receipt.tokens.answer for one in self.answers)


async def one(engine: ResidentEngine, request: AnswerRequest) -> Answer:
    async with aclosing(engine.answer(request)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event.answer
            if isinstance(event, Failed):
                raise SystemExit(f"{event.message}; {event.hint}")
    raise SystemExit("the engine ended without an answer")


async def once(engine: ResidentEngine, requests: list[AnswerRequest], parallel: int) -> Pass:
    places = asyncio.Semaphore(parallel)

    async def wait(request: AnswerRequest) -> Answer:
        async with places:
            return await one(engine, request)

    began, before = time.perf_counter(), await _processor(engine)
    answers = await asyncio.gather(*map(wait, requests))
    return Pass(answers, time.perf_counter() - began, await _processor(engine) - before)


async def _processor(engine: ResidentEngine) -> float:
    """Seconds of processor that the engine has taken so far; 0 before it runs."""
    status = await engine.status()
    if status is None:
        return 0.0
    times = psutil.Process(status.pid).cpu_times()
    return times.user + times.system


async def measure(options: argparse.Namespace, folder: Path) -> None:
    engine = resident(Places(folder / "engine.sock", folder / "engine.log"))
    spec = ModelSpec(model=options.model, threads=options.threads, deterministic=options.deterministic)
    think: Think = options.think if options.think in ("off", "max") else int(options.think)
    requests = [
        AnswerRequest(
            id=f"bench-{number}",
            spec=spec,
            messages=(Message("user", problem.question),),
            think=think,
            sampling=Sampling(temperature=0),
            max_tokens=64,
            bulk=True,
        )
        for number, problem in enumerate(problem_set(options.problems, 1))
    ]
    passes: dict[int, list[Pass]] = {1: [], options.parallel: []}
    try:
        await once(engine, requests[: options.parallel], options.parallel)  # loads, and warms up
        for _ in range(options.runs):
            for parallel, found in passes.items():
                found.append(await once(engine, requests, parallel))
    finally:
        await engine.shutdown()
        await engine.close()
    report(passes, options)


def report(passes: dict[int, list[Pass]], options: argparse.Namespace) -> None:
    rates = {parallel: [len(p.answers) / p.seconds for p in found] for parallel, found in passes.items()}
    for parallel, found in passes.items():
        middle = statistics.median(rates[parallel])
        tokens = statistics.median(p.tokens / p.seconds for p in found)
        span = f"from {min(rates[parallel]):.1f} to {max(rates[parallel]):.1f}"
        each = statistics.median(p.processor / len(p.answers) for p in found)
        print(
            f"{parallel:3d} at once   {middle:7.1f} answers/s ({span})   {tokens:8.0f} tok/s   "
            f"{each * 1e3:.0f} ms of processor an answer"
        )
    pairs = [many / alone for alone, many in zip(rates[1], rates[options.parallel], strict=True)]
    of_each = ", ".join(f"{pair:.2f}" for pair in pairs)
    print(f"ratio        {statistics.median(pairs):.2f}x   (of each pair: {of_each})")
    pairs = [one.processor / all_.processor for one, all_ in zip(*passes.values(), strict=True)]
    of_each = ", ".join(f"{pair:.2f}" for pair in pairs)
    print(f"of processor {statistics.median(pairs):.2f}x   (of each pair: {of_each})")
    first = passes[1][0].answers
    for parallel, found in passes.items():
        for number, p in enumerate(found):
            alike = sum(
                (a.thinking, a.answer) == (b.thinking, b.answer)
                for a, b in zip(first, p.answers, strict=True)
            )
            if alike < len(first):
                print(f"{parallel} at once, run {number}: {len(first) - alike} of {len(first)} texts differ")
    print(
        f"{len(first)} problems, {passes[1][0].tokens / len(first):.0f} tokens each, thinking {options.think}"
    )
    print(first[0].receipt.environment.kernel_class)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--problems", type=int, default=192)
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--think", default="max", help="off, max or tokens")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--deterministic", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mull-"))
    try:
        asyncio.run(measure(options, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
