"""A bench as tables in files: CSV, and Parquet where pyarrow is installed.

Two tidy tables, units in the columns' names: one row per cell and seed, and one per answer.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.bench.report import Measured
from app.bench.tasks import Tasks
from app.errors import CommandError, reason
from app.files import write_atomically
from engine.protocol.bench import BenchReport, BenchRow

Row = dict[str, str | int | float | bool | None]

_PLAIN_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""With what a spreadsheet takes a cell for a formula."""


def cells(report: BenchReport) -> list[Row]:
    """A row for each cell and seed."""
    return [{**_cell(row), **_ran_on(report, row.model)} for row in report.rows]


def answers(report: BenchReport, found: Sequence[Measured], tasks: Mapping[int, Tasks]) -> list[Row]:
    """A row for each answer."""
    return list(_answers(report, found, tasks))


def write(
    path: Path, report: BenchReport, found: Sequence[Measured], tasks: Mapping[int, Tasks]
) -> list[str]:
    """Both tables as CSV or Parquet, the answers beside the cells; says what was written.

    Raises CommandError.
    """
    details = path.with_name(f"{path.stem}.answers{path.suffix}")
    written = []
    for place, rows in ((path, cells(report)), (details, answers(report, found, tasks))):
        parquet = path.suffix.lower() == ".parquet"
        content = as_parquet(rows, report) if parquet else as_csv(rows)
        try:
            write_atomically(place, content)
        except OSError as error:
            raise CommandError(f"cannot write {place}: {reason(error)}") from error
        written.append(f"{place}: {len(rows):,} rows")
    return written


def as_csv(rows: Sequence[Row]) -> bytes:
    """UTF-8 with a heading; no cell is a formula to a spreadsheet."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _safe(value) for name, value in row.items()})
    return out.getvalue().encode("utf-8", errors="replace")


def as_parquet(rows: Sequence[Row], report: BenchReport) -> bytes:
    """With the report's provenance among the file's metadata. Raises CommandError without pyarrow."""
    pyarrow, parquet = pyarrow_modules()
    table = pyarrow.Table.from_pylist(list(rows))
    said = {"mull.bench": "1", "created": report.created, "tasks_digest": report.tasks_digest}
    out = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(said), out, compression="zstd")
    return out.getvalue()


def pyarrow_modules() -> tuple[Any, Any]:
    """pyarrow and its Parquet. Raises CommandError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise CommandError("Parquet needs pyarrow", 'pip install "mull[parquet]", or --csv FILE') from None
    return pyarrow, parquet


def _cell(row: BenchRow) -> Row:
    return {
        "model": row.model,
        "method": row.method,
        "budget": row.budget,
        "seed": row.seed,
        "problems": row.n,
        "samples": row.samples,
        "accuracy": row.accuracy,
        "accuracy_low": row.accuracy_low,
        "accuracy_high": row.accuracy_high,
        "any_right": row.any_right,
        "tokens_mean": row.tokens.value,
        "tokens_method": row.tokens.method,
        "thinking_tokens_mean": row.thinking_tokens.value,
        "seconds_mean": row.seconds.value,
        "seconds_method": row.seconds.method,
        "latency_seconds_mean": row.latency.value,
        "latency_method": row.latency.method,
        "flops_mean": row.flops.value,
        "flops_method": row.flops.method,
        "joules_mean": row.joules.value,
        "joules_low": row.joules.low,
        "joules_high": row.joules.high,
        "joules_method": row.joules.method,
        "temperature": row.temperature,
        "cut_share": row.cut,
        "unanswered": row.unanswered,
    }


def _ran_on(report: BenchReport, name: str) -> Row:
    """Provenance, the same for all rows of a model."""
    model = next(one for one in report.models if one.model == name)
    ran = model.environment
    return {
        "fingerprint": model.fingerprint,
        "parallel": model.parallel,
        "profile": ran.profile if ran else None,
        "device": ran.device if ran else None,
        "weight_dtype": ran.weight_dtype if ran else None,
        "kernel_class": ran.kernel_class if ran else None,
        "threads": ran.threads if ran else None,
        "top_p": ran.top_p if ran else None,
        "top_k": ran.top_k if ran else None,
        "mull": report.mull,
        "torch": ran.torch if ran else None,
        "transformers": ran.transformers if ran else None,
        "tasks": report.tasks,
        "tasks_digest": report.tasks_digest,
        "split": report.split,
        "created": report.created,
    }


def _answers(report: BenchReport, found: Sequence[Measured], tasks: Mapping[int, Tasks]) -> Iterator[Row]:
    temperatures = {(row.model, row.method, row.budget): row.temperature for row in report.cells}
    items = {(seed, item.digest): item for seed, one in tasks.items() for item in one.items}
    for cell in found:
        provenance = _ran_on(report, cell.cell.model)
        for (seed, digest), judged in cell.by_problem.items():
            item = items[seed, digest]
            for one in judged:
                line = one.line
                yield {
                    "model": cell.cell.model,
                    "method": cell.cell.method,
                    "budget": cell.cell.budget,
                    "seed": seed,
                    "problem": digest,
                    "family": item.family,
                    "prompt": item.prompt,
                    "expected": item.answer,
                    "sample": line.sample,
                    "answer": line.answer,
                    "right": one.right,
                    "finish": line.finish,
                    "error": line.error,
                    "prompt_tokens": line.prompt_tokens,
                    "tokens": line.tokens,
                    "tokens_method": "measured",
                    "thinking_tokens": line.thinking_tokens,
                    "cached_tokens": line.cached_tokens,
                    "seconds": line.seconds,
                    "seconds_method": "apportioned",
                    "latency_seconds": line.latency_s,
                    "latency_method": "measured",
                    "flops": line.flops,
                    "flops_method": "derived",
                    "joules": line.joules,
                    "joules_low": line.joules_low,
                    "joules_high": line.joules_high,
                    "joules_method": line.joules_method,
                    "temperature": temperatures[cell.cell.model, cell.cell.method, cell.cell.budget],
                    **provenance,
                }


def _safe(value: str | int | float | bool | None) -> str | int | float | bool | None:
    """What a spreadsheet shows as it is: a text that it would compute gets an apostrophe before it."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _PLAIN_NUMBER.fullmatch(value):
        return f"'{value}"
    return value
