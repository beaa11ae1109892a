"""`mull calibrate`: how long a step takes with so many answers at once, measured here and kept for plans."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from datetime import UTC, datetime

import click

from app import config, figures
from app.bench.calibration import keep
from app.cli.engine import failure, open_engine
from app.cli.output import StatusLine, show, show_json, show_table, warn
from app.errors import CommandError
from engine.build import mull_version
from engine.client import ResidentEngine
from engine.protocol import Failed, Loaded, Loading, ModelInfo, ModelSpec, Queued
from engine.protocol.calibration import DeviceCurve, StepTime
from engine.protocol.speed import Measured, Measuring, SpeedReport, SpeedRequest

ROWS = (1, 2, 4, 8, 16, 32)
PROMPT, GENERATE, RUNS = 128, 48, 3


@click.command(
    epilog="""\b
Examples:
  mull calibrate
  mull calibrate --model Qwen/Qwen3-0.6B --device cuda
"""
)
@click.option(
    "--model", metavar="NAME|PATH|REPO", help="A folder, a GGUF file, or a name (see: mull models)."
)
@click.option("--device", metavar="cpu|cuda[:N]", help="Where to run.")
@click.option("--threads", type=int, metavar="N", help="CPU threads of the engine.")
@click.option("--context", type=int, metavar="N", help="Tokens of context to load the model with.")
@click.option(
    "--quant", metavar="none|int8|int4|fp8|auto", help="Quantize the weights (see mull ask --help)."
)
@click.option("--kv", metavar="model|int8", help="How keys and values are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all figures.")
def calibrate(as_json: bool, **flags: str | int | None) -> None:
    """Measure how fast the model decodes on this device with 1 to 32 answers at once.

    From that follow the seconds and joules of mull ask --preview and --method auto. How well the model
    answers is measured by mull bench --calibrate.
    """
    configuration = config.load(flags)
    for warning in configuration.warnings:
        warn(warning)
    curve = asyncio.run(_measure(configuration.settings))
    place = keep(curve)
    if as_json:
        show_json(curve)
        return
    show(f"{curve.model} on {curve.device}, {figures.count(curve.context)} tokens of context")
    show("")
    first = curve.steps[0].seconds
    show_table(
        ("answers at once", "a step", "against one", "tokens a second"),
        [
            (
                figures.count(step.rows),
                figures.seconds(step.seconds),
                f"{step.seconds / first:.1f} times",
                figures.rate(step.rows / step.seconds),
            )
            for step in curve.steps
        ],
    )
    show("")
    show(f"prompts are read at {figures.rate(curve.prefill_tok_s)}")
    warn(f"kept in {place}")


async def _measure(settings: config.Settings) -> DeviceCurve:
    """Speeds at each number of rows that the cache has room for. Raises CommandError."""
    engine = open_engine(settings)
    status = StatusLine()
    spec = settings.spec()
    reports: list[SpeedReport] = []
    try:
        info = await _loaded(engine, spec, status)
        for rows in ROWS:
            report = await _speed(engine, spec, rows, status)
            if report is None:
                break
            reports.append(report)
    finally:
        status.clear()
        await engine.close()
    if not reports or any(report.decode_tok_s.value is None for report in reports):
        raise CommandError("nothing could be measured", "try again with a larger --context")
    return DeviceCurve(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        mull=mull_version(),
        model=info.name,
        fingerprint=info.fingerprint,
        device=info.device,
        threads=info.threads,
        context=PROMPT + GENERATE // 2,
        steps=tuple(
            StepTime(report.batch, report.batch / (report.decode_tok_s.value or 1.0)) for report in reports
        ),
        prefill_tok_s=reports[0].prefill_tok_s.value or 0.0,
    )


async def _loaded(engine: ResidentEngine, spec: ModelSpec, status: StatusLine) -> ModelInfo:
    async with aclosing(engine.load(spec)) as events:
        async for event in events:
            match event:
                case Loading(stage=stage):
                    status.show(f"{stage}…")
                case Failed():
                    raise failure(event)
                case Loaded(model=model):
                    return model
    raise CommandError("the engine ended without loading the model", "try again")


async def _speed(
    engine: ResidentEngine, spec: ModelSpec, rows: int, status: StatusLine
) -> SpeedReport | None:
    """One report; None where so many rows do not fit. Raises CommandError."""
    request = SpeedRequest(
        id=f"calibrate-{os.getpid()}-{rows}",
        spec=spec,
        prompt=PROMPT,
        generate=GENERATE,
        batch=rows,
        runs=RUNS,
    )
    async with aclosing(engine.speed(request)) as events:
        async for event in events:
            match event:
                case Loading(stage=stage):
                    status.show(f"{stage}…")
                case Queued(ahead=ahead):
                    status.show(f"waiting for {ahead} {'answer' if ahead == 1 else 'answers'} to end…")
                case Measuring(stage=stage):
                    status.show(f"{rows} at once: {stage}…")
                case Failed(code="fit") if rows > 1:
                    return None
                case Failed():
                    raise failure(event)
                case Measured(report=report):
                    return report
    raise CommandError("the engine ended without a result", "try again")
