"""`mull demo`: in a minute, what thinking is worth: one puzzle at five budgets, then many, as a curve."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import click

from app import config, figures
from app.bench import chart, plot_text
from app.bench.grid import Cell, Plan
from app.bench.report import judged, report
from app.bench.results import opened
from app.bench.run import Progress, Run, load, wanted
from app.bench.tasks import BUNDLED, Item, Tasks, bundled
from app.cli.engine import failure, open_engine
from app.cli.output import LiveLines, StatusLine, cut, show, warn
from app.errors import CommandError
from app.sanitise import clean_line
from engine.client import ResidentEngine
from engine.protocol import AnswerRequest, Delta, Failed, Finished, Loaded, Message, Receipt, Think
from engine.protocol.bench import BenchReport, BenchRow

BUDGETS: tuple[Think, ...] = ("off", 8, 16, 32, "max")
PUZZLE = "chain"
"""The family of the puzzle: long enough to think about, short enough to be watched."""
SECONDS = 60
MOST_PROBLEMS = 480
CHUNK = 16
"""Problems that are asked at every budget before the clock is looked at."""
DRAWN_EVERY_S = 0.1
PARALLEL = 64
ANSWER = 64
BAR = 12


@dataclass
class Lane:
    """The puzzle at one budget."""

    think: Think
    tokens: int = 0
    line: str = ""
    answer: str = ""
    receipt: Receipt | None = None
    right: bool = False

    def hear(self, delta: Delta) -> None:
        self.tokens += delta.tokens
        if delta.phase == "thinking":
            self.line = (self.line + delta.text).lstrip("\n").rsplit("\n", 1)[-1] or self.line

    def drawn(self, width: int) -> str:
        """Budget, tokens as a bar, what it thinks just now; in the end the answer and what it cost."""
        most = self.think if isinstance(self.think, int) else BAR * 4
        filled = min(BAR, round(BAR * self.tokens / most)) if most else 0
        bar = "━" * filled + "─" * (BAR - filled)
        head = f"think {self.think!s:>4}  {bar} {self.tokens:>3} tok"
        if self.receipt is None:
            return cut(f"{head}  {clean_line(self.line)}", width)
        cost = figures.quantity(self.receipt.compute.flops.total, mark=False)
        return cut(f"{head}  {cost:>9}  {'✓' if self.right else '✗'} {clean_line(self.answer)}", width)


@click.command(
    epilog="""\b
Examples:
  mull demo
  mull demo --seed 3          another puzzle
  mull demo --model ./my-model --seconds 300
"""
)
@click.option("--model", metavar="NAME|PATH|REPO", default="tiny", show_default=True, help="Who is asked.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, metavar="N")
@click.option(
    "--seconds",
    type=click.IntRange(10, 3600),
    default=SECONDS,
    show_default=True,
    metavar="N",
    help="How long it may take, loading apart.",
)
def demo(model: str, seed: int, seconds: int) -> None:
    """Show what thinking is worth, on this machine and without a network.

    First one puzzle at five thinking budgets, side by side. Then as many held-out problems at each of them
    as the time allows: what is solved, against what it costs.
    """
    configuration = config.load({"model": model})
    for warning in configuration.warnings:
        warn(warning)
    result = asyncio.run(_demo(configuration.settings, seed, seconds))
    show("")
    _show(result)


async def _demo(settings: config.Settings, seed: int, seconds: int) -> BenchReport:
    engine, status = open_engine(settings), StatusLine()
    try:
        loaded = await load(engine, settings.spec(), status.show)
        status.clear()
        end = time.monotonic() + seconds
        if loaded.model.thinking_format is None:
            raise CommandError(
                f"{loaded.model.name} has no thinking format that mull knows", "leave --model out"
            )
        [puzzle] = bundled(PUZZLE, "test", 1, seed).items
        show(f"{loaded.model.name} is asked once at each of five thinking budgets:\n\n  {puzzle.prompt}\n")
        await _lanes(engine, settings, puzzle)
        show(f"\nThe answer is {puzzle.answer}. One puzzle proves little; so now many of them.")
        return await _curve(engine, settings, loaded, seed, end, status)
    finally:
        status.clear()
        await engine.close()


async def _lanes(engine: ResidentEngine, settings: config.Settings, puzzle: Item) -> None:
    """The puzzle at all budgets at once, drawn while they think."""
    lanes, lines = [Lane(think) for think in BUDGETS], LiveLines()
    width = shutil.get_terminal_size().columns - 2

    async def ask(lane: Lane) -> None:
        request = AnswerRequest(
            id=f"demo-{os.getpid()}-{lane.think}",
            spec=settings.spec(),
            messages=(Message("user", puzzle.prompt),),
            think=lane.think,
            max_tokens=ANSWER,
        )
        async for event in engine.answer(request):
            match event:
                case Delta():
                    lane.hear(event)
                case Failed():
                    raise failure(event)
                case Finished(answer=answer):
                    lane.answer, lane.receipt = answer.answer, answer.receipt
                    lane.tokens = answer.receipt.tokens.thinking + answer.receipt.tokens.forced
                    lane.right = puzzle.accepts(answer.answer)

    asking = asyncio.gather(*map(ask, lanes))
    while not asking.done():
        lines.show([f"  {lane.drawn(width)}" for lane in lanes])
        await asyncio.wait([asking], timeout=DRAWN_EVERY_S)
    await asking
    lines.end([f"  {lane.drawn(width)}" for lane in lanes])


async def _curve(
    engine: ResidentEngine,
    settings: config.Settings,
    loaded: Loaded,
    seed: int,
    end: float,
    status: StatusLine,
) -> BenchReport:
    """As many problems at each budget as there is time for, and at least some."""
    tasks = bundled(BUNDLED, "test", MOST_PROBLEMS, seed)
    template = Cell(model="", fingerprint="", method="", think="off", seed=0, max_tokens=ANSWER)
    plan = Plan((settings.model,), ("direct", "cot"), BUDGETS, (seed,), 1, template)
    cells = plan.cells(loaded.model, loaded.methods)
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "demo.jsonl") as results:

        def tell() -> None:
            left = figures.seconds(max(0.0, end - time.monotonic()))
            status.show(f"{figures.count(len(results.answers))} answers · {left} left…")

        done, took = 0, 0.0
        while done < len(tasks.items) and (not done or time.monotonic() + took < end):
            began = time.monotonic()
            chunk = {seed: tasks.items[done : done + CHUNK]}
            run = Run(engine, settings.spec(), results, PARALLEL, tell)
            missing = wanted(cells, chunk, 1)
            await run.answers(missing, Progress(loaded.model.name, len(missing), 0))
            done += len(chunk[seed])
            took = time.monotonic() - began
        asked = {seed: Tasks(tasks.name, tasks.split, tasks.items[:done], tasks.notes)}
        return report(plan, asked, judged(cells, asked, 1, results), results, "flops")


def _show(result: BenchReport) -> None:
    drawn, width = chart.chart(result), shutil.get_terminal_size().columns
    for line in plot_text.draw(drawn, width) if drawn else ():
        show(line or " ")
    by_budget = {row.budget: row for row in result.cells}
    least, most = by_budget["off"], by_budget["max"]
    times = (most.flops.value or 0) / (least.flops.value or 1)
    show("")
    for text in (
        f"{result.problems} problems: {_share(least)} solved without thinking, {_share(most)} with as much "
        f"as it likes, for {times:.1f} times the arithmetic.",
        "More problems, other methods and models, tasks of your own: mull bench. To ask something: mull",
    ):
        show(textwrap.fill(text, width))


def _share(row: BenchRow) -> str:
    return f"{row.accuracy:.0%} ({row.accuracy_low:.0%} to {row.accuracy_high:.0%})"
