"""Reports as a bench makes them, without an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from engine.protocol import Quantity, derived, measured, unavailable
from engine.protocol.bench import BenchReport, BenchRow


@pytest.fixture
def make_report() -> Callable[..., BenchReport]:
    """A report of models that solve more the more they think."""

    def make(models: Sequence[str] = ("tiny",), against: str = "flops") -> BenchReport:
        cells = []
        for size, model in enumerate(models, 1):
            for step, budget in enumerate(("off", "8", "32", "max")):
                accuracy = min(0.95, 0.2 * size + 0.18 * step)
                cost = 1e8 * 3**size * (step + 1) ** 2
                cells.append(row(model, budget, accuracy, derived(cost, "FLOP", "formula"), front=step > 1))
        return BenchReport(
            created="2026-01-01T00:00:00+00:00",
            mull="0.1.0",
            tasks="bundled",
            tasks_digest="0",
            split="test",
            problems=100,
            samples=1,
            seeds=(0,),
            temperature=None,
            top_p=None,
            top_k=None,
            max_tokens=64,
            system="",
            against=against,
            interval="",
            test="",
            results="results.jsonl",
            models=(),
            rows=tuple(cells),
            cells=tuple(cells),
            enough=(),
        )

    return make


def row(model: str, budget: str, accuracy: float, flops: Quantity, front: bool) -> BenchRow:
    return BenchRow(
        model=model,
        method="direct" if budget == "off" else "cot",
        budget=budget,
        seed=None,
        n=100,
        samples=1,
        accuracy=accuracy,
        accuracy_low=accuracy - 0.05,
        accuracy_high=min(1.0, accuracy + 0.05),
        tokens=measured(30.0, "1", "counted"),
        thinking_tokens=measured(20.0, "1", "counted"),
        seconds=measured(0.1, "s", "clock"),
        latency=measured(0.2, "s", "clock"),
        flops=flops,
        joules=unavailable("J", "no counter"),
        cut=0.0,
        front=front,
        profile="cpu",
    )
