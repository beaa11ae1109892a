"""Measure a checkpoint on held-out problems: python -m engine.tasks.evaluate MODEL [--bars] [--problems 306].

Accuracy with thinking off, capped at a few lengths, and in full, overall and by family; or, with --bars,
everything that the bundled model is held to. JSON on stdout.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine.tasks.bars import measure
from engine.tasks.examinee import Examinee, Reply
from engine.tasks.problem import Problem
from engine.tasks.registry import FAMILIES, TooFewProblems, problem_set

THINKING_CAPS = (8, 16, 32, 64)


@dataclass(frozen=True)
class ModeResult:
    """One thinking mode ("off", a cap in tokens, "full") over all problems; shares lie in 0..1."""

    mode: str
    accuracy: float
    mean_thinking_tokens: float
    unfinished: int  # thoughts that never closed
    accuracy_by_family: dict[str, float]


def judge(mode: str, problems: Sequence[Problem], replies: Sequence[Reply]) -> ModeResult:
    """Compare replies with the right answers."""
    right = [r.answer is not None and p.accepts(r.answer) for p, r in zip(problems, replies, strict=True)]
    by_family = {}
    for name in FAMILIES:
        hits = [hit for problem, hit in zip(problems, right, strict=True) if problem.family == name]
        if hits:
            by_family[name] = round(sum(hits) / len(hits), 3)
    return ModeResult(
        mode=mode,
        accuracy=round(sum(right) / len(right), 3),
        mean_thinking_tokens=round(sum(len(reply.thought) for reply in replies) / len(replies), 1),
        unfinished=sum(reply.answer is None for reply in replies),
        accuracy_by_family=by_family,
    )


def evaluate(examinee: Examinee, problems: Sequence[Problem]) -> list[ModeResult]:
    """Results with thinking off, at every cap of THINKING_CAPS, and in full."""
    questions = [problem.question for problem in problems]
    full = examinee.answer_in_full(questions)
    results = [judge("off", problems, examinee.answer_directly(questions))]
    for cap in THINKING_CAPS:
        results.append(judge(str(cap), problems, examinee.answer_capped(questions, full, cap)))
    return [*results, judge("full", problems, full)]


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, evaluate, print JSON, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.tasks.evaluate", description="Measure a checkpoint on held-out problems."
    )
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument(
        "--problems", type=int, default=306, help="number of held-out problems, all families alike"
    )
    parser.add_argument("--bars", action="store_true", help="measure all that the bundled model is held to")
    parser.add_argument("--seed", type=int, default=1, help="seed of the problem set")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(argv)
    fewest = 2 * len(FAMILIES) if options.bars else 1
    if options.problems < fewest:
        parser.error(f"--problems must be at least {fewest}")
    if not (options.model / "config.json").is_file():
        print(f"No checkpoint in {options.model}: config.json is missing.", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "problems": options.problems,
        "seed": options.seed,
        "torch": torch.__version__,
    }
    try:
        if options.bars:
            report |= measure(Examinee.load(options.model), options.problems, options.seed)
        else:
            problems = problem_set(options.problems, options.seed)
            results = evaluate(Examinee.load(options.model), problems)
            report["results"] = [asdict(result) for result in results]
    except TooFewProblems as error:
        print(f"{error}; ask for fewer with --problems.", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
