"""What calibration found of a model, as the planner reads it: in a file named by the model's fingerprint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from app import locations
from app.bench.grid import Plan
from app.bench.report import Judged, Measured
from app.bench.tasks import Tasks
from app.errors import CommandError, reason
from app.files import write_atomically
from engine.protocol.bench import BenchReport
from engine.protocol.calibration import CalibrationRecord, DeviceCurve, Outcomes, curve_name, record_name
from engine.tasks.features import features

PROBLEMS = 180
"""Of the bundled tasks, where nothing is said: about as many as each seed has in the calibration split."""
CHEAP = ("direct", "cot")
COSTLY = ("refine:4", "vote:5", "best:5")
"""Methods that take as much as several of the others."""

Row = tuple[int, str, int]
"""A seed, a problem, and the number of the sample."""


def plans(asked: Plan) -> tuple[Plan, ...]:
    """What is calibrated: what was asked for, or costly methods with the largest budget alone."""
    if asked.methods is not None:
        return (asked,)
    budgets = asked.budgets or ("max",)
    largest = max(budgets, key=lambda think: 0 if think == "off" else math.inf if think == "max" else think)
    return replace(asked, methods=CHEAP), replace(asked, methods=COSTLY, budgets=(largest,))


def records(
    report: BenchReport, tasks: Mapping[int, Tasks], together: Sequence[Measured]
) -> list[CalibrationRecord]:
    """One for each model, from cells with all seeds together; of answers that every cell has."""
    prompts = {item.digest: item.prompt for one in tasks.values() for item in one.items}
    return [
        _record(
            report,
            model.model,
            prompts,
            [one for one in together if one.cell.fingerprint == model.fingerprint],
        )
        for model in report.models
    ]


def keep(record: CalibrationRecord | DeviceCurve, place: Path | None = None) -> Path:
    """Write it, in place of an earlier one: to its place in mull's own folder, or elsewhere.

    Raises CommandError.
    """
    name = (curve_name if isinstance(record, DeviceCurve) else record_name)(record.fingerprint)
    path = place or locations.calibrations_directory() / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(record) + b"\n", mode=0o644 if place else 0o600)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {reason(error)}") from error
    return path


def _record(
    report: BenchReport, model: str, prompts: Mapping[str, str], cells: Sequence[Measured]
) -> CalibrationRecord:
    answers = [_answers(cell) for cell in cells]
    rows = [row for row in answers[0] if all(row in other for other in answers)]
    return CalibrationRecord(
        created=report.created,
        mull=report.mull,
        model=model,
        fingerprint=cells[0].cell.fingerprint,
        tasks=report.tasks,
        tasks_digest=report.tasks_digest,
        seeds=report.seeds,
        questions=tuple(features(prompts[problem]) for _, problem, _ in rows),
        outcomes=tuple(
            Outcomes(
                method=cell.cell.method,
                think=cell.cell.think,
                right=tuple(int(found[row].right) for row in rows),
                thinking=tuple(found[row].line.thinking_tokens for row in rows),
                tokens=tuple(found[row].line.tokens for row in rows),
                path=tuple(found[row].line.path for row in rows),
            )
            for cell, found in zip(cells, answers, strict=True)
        ),
    )


def _answers(cell: Measured) -> dict[Row, Judged]:
    """What there is an answer to."""
    return {
        (seed, problem, one.line.sample): one
        for (seed, problem), judged in cell.by_problem.items()
        for one in judged
        if not one.line.error
    }
