"""`mull replay`: recompute recorded answers, and say where they come out otherwise."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing

import click
from msgspec import structs

from app import config
from app.cli.engine import failure, open_engine
from app.cli.output import StatusLine, show, show_json, warn
from app.errors import CommandError
from app.sessions.recorded import Recorded, recorded
from engine.protocol import Failed, Loading, Queued
from engine.protocol.replay import Replayed, Replaying, ReplayReport, ReplayReports, ReplayRequest

DIFFERENT = 3


@click.command(
    epilog="""\b
Examples:
  mull replay last
  mull ask --json --trace "What is 3 * 17?" > answer.json && mull replay --check answer.json
"""
)
@click.argument("what", metavar="FILE|SESSION")
@click.option("--check", is_flag=True, help="End with status 3 where anything is different.")
@click.option(
    "--model", metavar="NAME|PATH|REPO", help="The model to recompute with. [default: the recorded one]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all that was compared.")
@click.pass_context
def replay(ctx: click.Context, what: str, check: bool, model: str | None, as_json: bool) -> None:
    """Recompute each token of recorded answers, and report where it comes out otherwise.

    FILE is what `mull ask --json --trace` printed, or a session that was exported as JSON. SESSION is what
    `mull sessions` lists, the beginning of one, or `last`. The recorded tokens go through the model in one
    pass, and each is chosen again by the same seed. Model, template, prompt, text and the receipt's token
    counts are compared, too.
    """
    configuration = config.load({})
    for warning in configuration.warnings:
        warn(warning)
    found = recorded(what)
    if not found.answers:
        raise CommandError(
            f"{what[:80]} holds no answer that was recorded with its tokens",
            "sessions are recorded so, and answers of: mull ask --json --trace",
        )
    reports = asyncio.run(_replay(found.answers, model, configuration.settings))
    if as_json:
        show_json(ReplayReports(answers=tuple(reports), untraced=found.untraced))
    else:
        for report in reports:
            show("\n".join(_lines(report)))
        if found.untraced:
            show(f"not recorded with their tokens: {', '.join(found.untraced)}")
    if check and any(report.differences for report in reports):
        ctx.exit(DIFFERENT)


async def _replay(
    answers: tuple[Recorded, ...], model: str | None, settings: config.Settings
) -> list[ReplayReport]:
    engine = open_engine(settings)
    status = StatusLine()
    reports = []
    try:
        for number, one in enumerate(answers, 1):
            request = ReplayRequest(
                id=f"replay-{os.getpid()}-{number}",
                spec=structs.replace(one.trace.spec, model=model) if model else one.trace.spec,
                answer=one.answer,
                messages=one.messages,
            )
            place = f"answer {number} of {len(answers)}" if len(answers) > 1 else "recomputing"
            async with aclosing(engine.replay(request)) as events:
                async for event in events:
                    match event:
                        case Loading(stage=stage):
                            status.show(f"{stage}…")
                        case Queued(ahead=ahead):
                            status.show(f"waiting for {ahead} {'answer' if ahead == 1 else 'answers'}…")
                        case Replaying(done=done, total=total) if total:
                            status.show(f"{place} · {done / total:.0%}…")
                        case Failed():
                            status.clear()
                            raise failure(event)
                        case Replayed(report=report):
                            reports.append(structs.replace(report, turn=one.turn))
            status.clear()
        if len(reports) == len(answers):
            return reports
    finally:
        status.clear()
        await engine.close()
    raise CommandError("the engine ended without a result", "try again")


def _lines(report: ReplayReport) -> list[str]:
    """A report as a person reads it."""
    choices, agreed, close = (
        sum(getattr(path, name) for path in report.paths) for name in ("choices", "agreed", "close")
    )
    paths = f"{len(report.paths)} {'path' if len(report.paths) == 1 else 'paths'}"
    title = f"{report.turn}  " if report.turn else ""
    lines = [
        f"{title}{report.method} of {report.model}: "
        + ("different" if report.differences else "as recorded"),
        f"  choices  {agreed:,} of {choices:,} come out the same, on {paths}",
    ]
    if close:
        lines.append(f"  rounding {close:,} are nearer to each other than {report.tolerance:g} in logits")
    if report.paths:
        shift = max(path.shift for path in report.paths)
        lines.append(f"  logits   moved by {shift:.1g} on average at most (tolerance {report.tolerance:g})")
    lines += [f"  differs  {difference.what}: {difference.text}" for difference in report.differences]
    lines += [f"  note     {note}" for note in report.notes]
    return lines
