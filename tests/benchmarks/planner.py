"""What the planner foresees against what answers took, and its choices against each single way to answer:

mull bench --calibrate --seeds 0,1,2 --record record.json
mull bench --problems 540 --out answers.jsonl --methods direct,cot --budgets off,16,32,64,max
mull bench --problems 540 --out answers.jsonl --methods refine:4,vote:5,best:5 --budgets max
python tests/benchmarks/planner.py record.json answers.jsonl --problems 540 --model FOLDER

Asks no engine. An answer that took more than the budget counts as wrong, whoever chose how it was given.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.bench.results import AnswerLine, opened
from app.bench.tasks import Item, bundled
from engine.load.locate import locate
from engine.protocol import BudgetUnit, Limit, ModelInfo, Think
from engine.protocol.calibration import CalibrationRecord
from engine.thinking.methods import METHODS
from engine.thinking.planner.machine import Machine
from engine.thinking.planner.plan import Option, choose, survey
from engine.thinking.planner.store import Known
from profiles.shape import shape_from_config

Way = tuple[str, Think]
Figures = NDArray[np.float64]
RESAMPLES = 10_000
SHARES = (0.5, 0.9)
BUDGETS = (0.05, 0.2, 0.4, 0.7, 0.95)
"""Shares of all answers' costs at which budgets are set."""


@dataclass(frozen=True)
class Given:
    """An answer that was given."""

    line: AnswerLine
    right: bool

    def cost(self, unit: BudgetUnit) -> float:
        return float(self.line.flops if unit == "FLOP" else self.line.prompt_tokens + self.line.tokens)


def answers(
    paths: Sequence[Path], items: Mapping[str, Item], fingerprint: str
) -> dict[str, dict[Way, Given]]:
    """By problem and way, of the problems that every way has answered."""
    found: dict[str, dict[Way, Given]] = {}
    ways: set[Way] = set()
    for path in paths:
        with opened(path) as results:
            for line in results.answers.values():
                item, header = items.get(line.problem), results.cells.get(line.cell)
                if item is None or header is None or header.cell.fingerprint != fingerprint or line.sample:
                    continue
                way = (header.cell.method, header.cell.think)
                ways.add(way)
                right = not line.error and item.accepts(line.answer)
                found.setdefault(line.problem, {})[way] = Given(line, right)
    return {problem: given for problem, given in found.items() if given.keys() == ways}


def prompt_of(given: Mapping[Way, Given]) -> int:
    """Tokens of the prompt, which are a few more where thinking is asked for."""
    return max(one.line.prompt_tokens for one in given.values())


def pinball(costs: Figures, foretold: Figures, share: float) -> float:
    """The loss that a quantile minimizes (Koenker and Bassett, 1978)."""
    over = costs - foretold
    return float(np.mean(np.maximum(share * over, (share - 1) * over)))


def shown(option: Option, share: float) -> float:
    return float((option.p50("tok") if share == 0.5 else option.p90("tok")) or 0.0)


def option_of(ways: Sequence[Option], way: Way) -> Option:
    return next(one for one in ways if (one.course.method, one.course.think) == way)


def quantiles(
    foretold: Mapping[str, Sequence[Option]],
    given: Mapping[str, Mapping[Way, Given]],
    record: CalibrationRecord,
) -> None:
    """Coverage, width and loss of each way's foreseen tokens, beside one quantile for all questions."""
    print(f"{'':>12} {'p90 covers':>11} {'p90/p50':>8}   pinball p50, p90 (against one for all questions)")
    for outcomes in record.outcomes:
        way = (outcomes.method, outcomes.think)
        # without the prompt, which is known beforehand
        costs = np.array([float(one[way].line.tokens) for one in given.values()])
        prompts = np.array([float(prompt_of(one)) for one in given.values()])
        told = {
            share: np.array([shown(option_of(foretold[p], way), share) for p in given]) - prompts
            for share in SHARES
        }
        losses = []
        for share in SHARES:
            everywhere = np.full(len(costs), np.quantile(outcomes.tokens, share, method="higher"))
            losses.append(
                f"{pinball(costs, told[share], share):.2f} ({pinball(costs, everywhere, share):.2f})"
            )
        covered = float(np.mean(costs <= told[0.9]))
        ratio = float(np.median(told[0.9] / np.maximum(told[0.5], 1)))
        print(f"{label(way):>12} {covered:>11.1%} {ratio:>8.2f}   {', '.join(losses)}")


def label(way: Way) -> str:
    return way[0] if way[1] in ("off", "max") else f"{way[0]} {way[1]}"


def compared(
    foretold: Mapping[str, Sequence[Option]],
    given: Mapping[str, Mapping[Way, Given]],
    ways: Sequence[Way],
    unit: BudgetUnit,
) -> None:
    """Auto against the best single way at each budget: the difference, and its interval over problems."""
    everything = np.array([one[way].cost(unit) for one in given.values() for way in ways])
    rng = np.random.default_rng(0)
    print(f"\nbudgets in {unit}: right within it, of {len(given)} problems")
    for share in BUDGETS:
        budget = float(np.quantile(everything, share, method="higher"))
        solved = {
            way: np.array([one[way].right and one[way].cost(unit) <= budget for one in given.values()])
            for way in ways
        }
        best = max(ways, key=lambda way: solved[way].mean())
        limits = (Limit(unit, budget),)
        chosen = [choose(foretold[problem], limits)[0].course for problem in given]
        auto = np.array([
            solved[row.method, row.think][at] for at, row in enumerate(chosen)
        ])  # fmt: skip
        kept = np.mean([
            one[row.method, row.think].cost(unit) <= budget
            for one, row in zip(given.values(), chosen, strict=True)
        ])  # fmt: skip
        differences = auto.astype(float) - solved[best].astype(float)
        counts = rng.multinomial(len(differences), np.full(len(differences), 1 / len(differences)), RESAMPLES)
        low, high = np.quantile(counts @ differences / len(differences), (0.025, 0.975))
        picked = {label(way): sum((r.method, r.think) == way for r in chosen) for way in ways}
        print(
            f"{budget:>10.3g}: auto {auto.mean():.1%}, best single way "
            f"{label(best)} {solved[best].mean():.1%}, "
            f"difference {100 * differences.mean():+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}); "
            f"{kept:.0%} within; chose {', '.join(f'{n} {w}' for w, n in picked.items() if n)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("answers", type=Path, nargs="+")
    parser.add_argument("--problems", type=int, default=540)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    record = msgspec.json.decode(options.record.read_bytes(), type=CalibrationRecord)
    items = {item.digest: item for item in bundled("bundled", "test", options.problems, options.seed).items}
    given = answers(options.answers, items, record.fingerprint)
    record = msgspec.structs.replace(
        record,
        outcomes=tuple(
            outcomes
            for outcomes in record.outcomes
            if all((outcomes.method, outcomes.think) in one for one in given.values())
        ),
    )
    ways = [(outcomes.method, outcomes.think) for outcomes in record.outcomes]
    config = msgspec.json.decode((locate(options.model) / "config.json").read_bytes())
    machine = Machine(shape_from_config(config), (), None, None, measured=False)
    print(
        f"{len(given)} problems of the test split, {len(record.questions)} of calibration; {record.model}\n"
    )
    known, loaded = Known(record, "measured"), info(record)
    foretold = {}
    for problem, one in given.items():
        foretold[problem] = survey(loaded, items[problem].prompt, prompt_of(one), known, machine, METHODS)
    quantiles(foretold, given, record)
    for unit in ("tok", "FLOP"):
        compared(foretold, given, ways, unit)


def info(record: CalibrationRecord) -> ModelInfo:
    """As much of it as a plan from a record reads."""
    return ModelInfo(
        name=record.model,
        path="",
        revision=None,
        architecture="",
        parameters=0,
        weight_bytes=0,
        dtype="float32",
        kv_dtype="float32",
        weights="float32",
        device="cpu",
        profile="",
        context=4096,
        threads=1,
        thinking_format=None,
        think_steps=(),
        fingerprint=record.fingerprint,
    )


if __name__ == "__main__":
    main()
