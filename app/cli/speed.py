"""`mull speed`: how fast a model runs here, and how near that is to what the hardware gives."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing

import click

from app import config, figures
from app.cli.engine import failure, open_engine
from app.cli.output import StatusLine, show, show_json, show_table, warn
from app.errors import CommandError
from engine.protocol import Failed, Loading, Quantity, Queued
from engine.protocol.speed import Measured, Measuring, SpeedPhase, SpeedReport, SpeedRequest


@click.command(
    epilog="""\b
Examples:
  mull speed
  mull speed --batch 8
  mull speed --model Qwen/Qwen3-0.6B --prompt 2000 --generate 64
  mull speed --json | jq .decode_tok_s.value
"""
)
@click.option(
    "--model", metavar="NAME|PATH|REPO", help="A folder, a GGUF file, or a name (see: mull models)."
)
@click.option("--device", metavar="cpu|cuda[:N]", help="Where to run.")
@click.option("--threads", type=int, metavar="N", help="CPU threads of the engine.")
@click.option("--context", type=int, metavar="N", help="Tokens of context to load the model with.")
@click.option(
    "--quant",
    metavar="none|int8|int4|fp8|auto",
    help="Quantize the weights as they are loaded. PATTERN=KIND after a comma excepts some: "
    "int4,down_proj=int8; auto goes by the hardware and its free memory.",
)
@click.option(
    "--kv",
    metavar="model|int8",
    help="How keys and values are kept: in the model's own dtype, or rounded to int8, for less memory.",
)
@click.option(
    "--prompt",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens of a prompt.",
)
@click.option(
    "--generate",
    type=click.IntRange(2),
    default=128,
    show_default=True,
    metavar="N",
    help="Tokens to generate on it.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Prompts at once."
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="Runs, after one to warm up.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all figures.")
def speed(
    prompt: int, generate: int, batch: int, runs: int, as_json: bool, **flags: str | int | None
) -> None:
    """Measure how fast the model reads a prompt and generates.

    Prompts are random, so that nothing of them is cached, and nothing is guessed ahead. Memory bandwidth and
    matrix products are measured on the same threads: the limits are computed from these. Answers under way
    are waited for, and others wait meanwhile.
    """
    configuration = config.load(flags)
    for warning in configuration.warnings:
        warn(warning)
    request = SpeedRequest(
        id=f"speed-{os.getpid()}",
        spec=configuration.settings.spec(),
        prompt=prompt,
        generate=generate,
        batch=batch,
        runs=runs,
    )
    report = asyncio.run(_measure(request, configuration.settings))
    if as_json:
        show_json(report)
    else:
        _show(report)


async def _measure(request: SpeedRequest, settings: config.Settings) -> SpeedReport:
    engine = open_engine(settings)
    status = StatusLine()
    try:
        async with aclosing(engine.speed(request)) as events:
            async for event in events:
                match event:
                    case Loading(stage=stage):
                        status.show(f"{stage}…")
                    case Queued(ahead=ahead):
                        status.show(f"waiting for {ahead} {'answer' if ahead == 1 else 'answers'} to end…")
                    case Measuring(stage=stage, done=done, total=total):
                        status.show(f"{stage} · {done / total:.0%}…")
                    case Failed():
                        status.clear()
                        raise failure(event)
                    case Measured(report=report):
                        return report
    finally:
        status.clear()
        await engine.close()
    raise CommandError("the engine ended without a result", "try again")


def _show(report: SpeedReport) -> None:
    """The report as a person reads it: figures against limits, where these are from, and what follows."""
    environment = report.environment
    threads = f"{environment.threads} {'thread' if environment.threads == 1 else 'threads'}"
    dtype, kv = environment.weight_dtype, environment.kv_dtype
    dtypes = dtype if kv == dtype else f"{dtype}, cache {kv}"
    show(
        f"{report.model} ({dtypes} on {environment.device}, {threads}): "
        f"{figures.count(report.prompt)} prompt tokens, {figures.count(report.generate)} generated, "
        f"batch {report.batch}, {len(report.runs)} runs"
    )
    show("")
    show_table(("", "speed", "least to most", "the limit here", "used of it"), _rows(report))
    show("")
    for name, limit, stated in (
        ("bandwidth", report.limits.bandwidth, report.limits.profile_bandwidth),
        ("peak", report.limits.peak, report.limits.profile_peak),
    ):
        show(f"{name:9}  {_limit(limit, stated)}")
    show("")
    show(_explained("prefill", report.prefill))
    show(_explained("decode", report.decode))
    for note in report.notes:
        show(f"note: {note}")


def _rows(report: SpeedReport) -> list[tuple[str, str, str, str, str]]:
    """The table's rows: name, figure, range, limit, share of the limit."""

    def row(
        name: str, figure: Quantity, limit: Quantity | None = None, used: str = ""
    ) -> tuple[str, str, str, str, str]:
        return name, _plain(figure), _range(figure), _plain(limit) if limit else "", used

    rows = [
        row("prefill", report.prefill_tok_s, report.prefill.roofline_tok_s, f"{_plain(report.mfu)} MFU"),
        row("decode", report.decode_tok_s, report.roofline_tok_s, f"{_plain(report.mbu)} MBU"),
    ]
    if report.batch > 1:
        rows.append(row("of it a row", report.decode_tok_s_per_row))
    return [*rows, row("first token", report.first_token)]


def _plain(figure: Quantity) -> str:
    return figures.quantity(figure, mark=False)


def _range(figure: Quantity) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{figures.amount(figure.low, figure.unit)} to {figures.amount(figure.high, figure.unit)}"


def _limit(limit: Quantity, stated: Quantity) -> str:
    """A denominator: measured, or the profile's for want of that; and what the profile says."""
    if limit.value is None:
        return f"{figures.UNKNOWN} ({'; '.join(limit.reasons)})"
    if limit.method != "measured":
        return f"{_plain(limit)}, not measured: {limit.source}"
    profile = "" if stated.value is None else f"; {stated.source}: {_plain(stated)}"
    return f"{_plain(limit)}, measured: {limit.source}{profile}"


def _explained(name: str, phase: SpeedPhase) -> str:
    """What binds a phase, and how far from that it is."""
    if phase.gap.value is None:
        return f"{name}: what binds it is not known"
    limit, amount = ("peak", phase.flops) if phase.bound == "compute" else ("bandwidth", phase.bytes)
    times = f"{phase.gap.value:.1f} times as long as {_plain(amount)} at that {limit}"
    return f"{name}: {phase.bound} is the limit, and it takes {times}"
