"""What calibration found of a model, kept in a file of its own: by the model's fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from app import locations
from app.bench.report import Measured
from app.bench.statistics import quantile, wilson
from app.errors import CommandError, reason
from app.files import write_atomically
from engine.protocol.bench import BenchReport, BudgetMeasured, CalibrationRecord

SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
NAME_DIGITS = 32
"""Of a fingerprint's hexadecimal digits, those that name the file."""


def path_of(fingerprint: str) -> Path:
    """Where what is known of a model lies."""
    return locations.calibrations_directory() / f"{fingerprint[:NAME_DIGITS]}.json"


def records(report: BenchReport, together: Sequence[Measured]) -> list[CalibrationRecord]:
    """One for each model, from cells with all seeds together."""
    return [
        _record(report, model.model, [one for one in together if one.cell.fingerprint == model.fingerprint])
        for model in report.models
    ]


def keep(record: CalibrationRecord) -> Path:
    """Write it, in place of an earlier one. Raises CommandError."""
    path = path_of(record.fingerprint)
    content = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, content, mode=0o600)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {reason(error)}") from error
    return path


def _record(report: BenchReport, model: str, cells: Sequence[Measured]) -> CalibrationRecord:
    free = [
        one.line
        for cell in cells
        for one in cell.judged
        if cell.cell.think == "max" and one.line.finish == "stop"
    ]
    return CalibrationRecord(
        created=report.created,
        mull=report.mull,
        model=model,
        fingerprint=cells[0].cell.fingerprint,
        tasks=report.tasks,
        tasks_digest=report.tasks_digest,
        seeds=report.seeds,
        budgets=tuple(map(_budget, cells)),
        thinking_quantiles=_quantiles([line.thinking_tokens for line in free]),
        answer_quantiles=_quantiles([line.tokens - line.thinking_tokens for line in free]),
    )


def _budget(one: Measured) -> BudgetMeasured:
    shares = list(one.shares.values())
    accuracy = sum(shares) / len(shares)
    low, high = wilson(accuracy, len(shares))
    lines = [each.line for each in one.judged]
    return BudgetMeasured(
        method=one.cell.method,
        think=one.cell.think,
        n=len(shares),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        tokens=sum(line.tokens for line in lines) / len(lines),
    )


def _quantiles(tokens: Sequence[int]) -> dict[str, int]:
    return {f"{share:g}": int(quantile(tokens, share)) for share in SHARES} if tokens else {}
