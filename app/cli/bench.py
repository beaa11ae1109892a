"""`mull bench`: what thinking buys, measured: accuracy against cost by model, method and budget."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import click
import msgspec

from app import config, figures, locations
from app.bench import calibration, chart, exports, pictures, plot_text, table
from app.bench.grid import Cell, Plan
from app.bench.report import COSTS, judged, pooled, report
from app.bench.results import Results, default_name, opened
from app.bench.run import Progress, Run, load, wanted
from app.bench.tasks import BUNDLED, Split, Tasks, bundled, from_file
from app.cli.engine import open_engine
from app.cli.output import StatusLine, show, show_json, show_table, warn
from app.errors import CommandError, reason
from app.files import write_atomically
from app.sessions.journal import storable
from engine.protocol import Think
from engine.protocol.bench import BenchReport

PROBLEMS = 120
"""Of the bundled tasks, where nothing is said: an accuracy within nine points, in a minute or two."""
BUNDLED_ANSWER = 64
"""Tokens of a visible answer: those of the bundled tasks are short."""
FILE_ANSWER = 1024
PARALLEL = 64
SAID_EVERY_S = 30.0
"""Between two lines on how far it is, where stderr is no terminal."""


@click.command(
    epilog="""\b
Examples:
  mull bench
  mull bench --tasks chain,countdown --budgets off,16,64,max --problems 400
  mull bench --models tiny,Qwen/Qwen3-0.6B --tasks gsm8k.jsonl --problems 200
  mull bench --csv bench.csv --plot bench.svg
"""
)
@click.option(
    "--tasks",
    default=BUNDLED,
    show_default=True,
    metavar="NAMES|FILE",
    help="Families or tiers of the bundled tasks, after commas, or your own in JSON Lines (see the README).",
)
@click.option("--models", metavar="A,B", help="Models after commas; the one of your settings unless told.")
@click.option("--methods", metavar="A,B", help="Ways to answer, as mull ask --method names them.")
@click.option(
    "--budgets", metavar="off,16,max", help="Thinking, as mull ask --think takes it; the dial's steps."
)
@click.option("--problems", type=click.IntRange(1), metavar="N", help="How many: 120, or all of a file.")
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Answers to each problem; more than one takes a --temperature.",
)
@click.option(
    "--seeds", metavar="0,1,2", default="0", show_default=True, help="Of sampling and of bundled problems."
)
@click.option(
    "--split",
    type=click.Choice(get_args(Split)),
    help="Which problems: test, and of a file all, unless told.",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Measure on the calibration split, and keep what it says for mull ask --preview and --method auto.",
)
@click.option(
    "--record",
    metavar="FILE",
    help="Write what calibration found to FILE: as calibration.json in a model's folder it is used by all "
    "who have none of their own.",
)
@click.option(
    "--against",
    type=click.Choice(list(COSTS)),
    default="flops",
    show_default=True,
    help="The cost for front and plot.",
)
@click.option("--out", metavar="FILE", help="Where answers are kept, to go on from; in mull's own folder.")
@click.option("--again", is_flag=True, help="Answer anew what is there already.")
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=PARALLEL,
    show_default=True,
    metavar="N",
    help="Answers under way at once.",
)
@click.option("--csv", "csv_file", metavar="FILE", help="Write cells, and beside them answers, as CSV.")
@click.option("--parquet", "parquet_file", metavar="FILE", help="The same as Parquet (pyarrow).")
@click.option("--plot", "plot_file", metavar="FILE.svg|.png", help="Write the plot as a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--system", metavar="TEXT", default="", help="A system message before each problem.")
@click.option("--temperature", type=float, metavar="T", help="0 is greedy; the default is the model's own.")
@click.option("--top-p", type=float, metavar="P", help="Sample from the likeliest tokens that make up P.")
@click.option("--top-k", type=int, metavar="K", help="Sample from the K likeliest tokens.")
@click.option("--max-tokens", type=int, metavar="N", help="Cap the visible answer: 64, of a file 1,024.")
@click.option("--profile", metavar="NAME", help="The hardware profile to run with (see: mull profiles).")
@click.option("--device", metavar="cpu|cuda[:N]", help="Where to run.")
@click.option("--threads", type=int, metavar="N", help="CPU threads of the engine.")
@click.option("--context", type=int, metavar="N", help="Tokens of context to load the models with.")
@click.option(
    "--quant", metavar="none|int8|int4|fp8|auto", help="Quantize the weights (see mull ask --help)."
)
@click.option("--kv", metavar="model|int8", help="How keys and values are kept.")
@click.option("--draft", metavar="MODEL|exit:N|off", help="Who guesses tokens ahead (see mull ask --help).")
@click.option("--deterministic", is_flag=True, default=None, help="The same bits whatever runs beside.")
def bench(
    tasks: str,
    models: str | None,
    methods: str | None,
    budgets: str | None,
    problems: int | None,
    samples: int,
    seeds: str,
    split: Split | None,
    calibrate: bool,
    record: str | None,
    against: str,
    out: str | None,
    again: bool,
    parallel: int,
    csv_file: str | None,
    parquet_file: str | None,
    plot_file: str | None,
    as_json: bool,
    system: str,
    **flags: str | float | bool | None,
) -> None:
    """Measure what thinking buys: accuracy against tokens, time, compute and energy.

    Every method is tried with every budget on the same problems. Answers are kept as they come: an
    interrupted bench goes on with the same command, and what is measured already is not measured again,
    unless the model or a setting has changed.
    """
    configuration = config.load(flags)
    for warning in configuration.warnings:
        warn(warning)
    settings = configuration.settings
    _check_files(csv_file, parquet_file, plot_file)
    file = _file(tasks)
    plan = Plan(
        models=_names(models) or (settings.model,),
        methods=_names(methods) or ((settings.method,) if settings.method else None),
        budgets=_budgets(budgets),
        seeds=_seeds(seeds),
        samples=samples,
        template=Cell(
            model="",
            fingerprint="",
            method="",
            think="off",
            seed=0,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_tokens=settings.max_tokens or (BUNDLED_ANSWER if file is None else FILE_ANSWER),
            system=storable(system),
        ),
    )
    if record and not (calibrate and len(plan.models) == 1):
        raise click.UsageError("--record goes with --calibrate, and with one model")
    plans = calibration.plans(plan) if calibrate else (plan,)
    if calibrate and split not in (None, "calibration"):
        raise click.UsageError(f"--calibrate measures on the calibration split, not on {split}")
    chosen: Split = "calibration" if calibrate else split or ("test" if file is None else "all")
    if file is None:
        by_seed = {
            seed: bundled(tasks, chosen, problems or (calibration.PROBLEMS if calibrate else PROBLEMS), seed)
            for seed in plan.seeds
        }
    else:
        by_seed = dict.fromkeys(plan.seeds, from_file(file, chosen, problems))
    path = Path(out) if out else locations.bench_directory() / default_name(file)
    with opened(path) as results:
        if results.unread:
            warn(f"{path}: {len(results.unread)} lines cannot be read, the first is {results.unread[0]}")
        try:
            cells = asyncio.run(_answer(plans, settings, by_seed, results, parallel, again))
        except KeyboardInterrupt:
            warn(f"{_count(len(results.answers), 'answer')} kept in {path}; the same command goes on")
            raise
        found = judged(cells, by_seed, samples, results)
        result = report(plan, by_seed, found, results, against)
    if as_json:
        show_json(result)
    else:
        _show(result)
    for name in filter(None, (csv_file, parquet_file)):
        for said in exports.write(Path(name), result, found, by_seed):
            warn(said)
    if plot_file:
        _write_plot(result, Path(plot_file))
    for measured in calibration.records(result, by_seed, pooled(found)) if calibrate else ():
        place = calibration.keep(measured, Path(record) if record else None)
        warn(f"{measured.model}: what calibration found is kept in {place}")


async def _answer(
    plans: Sequence[Plan],
    settings: config.Settings,
    tasks: Mapping[int, Tasks],
    results: Results,
    parallel: int,
    again: bool,
) -> list[Cell]:
    """Have every model answer what is missing; the cells that there are. Raises CommandError."""
    engine = open_engine(settings)
    teller = Teller()
    cells: dict[str, Cell] = {}
    try:
        for model in plans[0].models:
            spec = msgspec.structs.replace(settings.spec(), model=model)
            loaded = await load(engine, spec, teller.stage)
            of_model = [cell for plan in plans for cell in plan.cells(loaded.model, loaded.methods)]
            every = wanted(of_model, {seed: one.items for seed, one in tasks.items()}, plans[0].samples)
            missing = every if again else [one for one in every if one.key not in results.answers]
            progress = Progress(loaded.model.name, len(every), len(every) - len(missing))
            run = Run(engine, spec, results, parallel, partial(teller.progress, progress))
            await run.answers(missing, progress)
            cells |= {cell.id: cell for cell in of_model}
    finally:
        teller.clear()
        await engine.close()
    return list(cells.values())


class Teller:
    """Says on stderr how far it is: a line that is overwritten, or without a terminal now and then one."""

    def __init__(self) -> None:
        self._status = StatusLine()
        self._said = time.monotonic()

    def stage(self, text: str) -> None:
        self._status.show(text)

    def progress(self, progress: Progress) -> None:
        left = progress.seconds_left()
        text = (
            f"{progress.model}: {figures.count(progress.known + progress.done)} of "
            f"{_count(progress.total, 'answer')}" + (f" · {figures.seconds(left)} left" if left else "")
        )
        self._status.show(f"{text}…")
        if not sys.stderr.isatty() and time.monotonic() - self._said > SAID_EVERY_S:
            self._said = time.monotonic()
            warn(text)

    def clear(self) -> None:
        self._status.clear()


def _show(result: BenchReport) -> None:
    show(table.heading(result))
    show("")
    width = shutil.get_terminal_size().columns
    show_table(*table.columns(result, width))
    show("")
    for remark in table.remarks(result):
        show(remark)
    drawn = chart.chart(result)
    if drawn is not None:
        show("")
        for line in plot_text.draw(drawn, width):
            show(line or " ")


def _write_plot(result: BenchReport, path: Path) -> None:
    drawn = chart.chart(result)
    if drawn is None:
        raise CommandError(f"there are too few cells with {result.against} for a plot", "use more budgets")
    try:
        write_atomically(path, pictures.picture(drawn, path))
    except OSError as error:
        raise CommandError(f"cannot write {path}: {reason(error)}") from error
    warn(f"{path}: the plot")


def _check_files(csv_file: str | None, parquet_file: str | None, plot_file: str | None) -> None:
    """Whether they can be written, before anything is measured. Raises CommandError."""
    if plot_file:
        pictures.check(Path(plot_file))
    if parquet_file:
        exports.pyarrow_modules()
        if Path(parquet_file).suffix.lower() != ".parquet":
            raise CommandError(f"--parquet {parquet_file}: give it the ending .parquet", status=2)
    for name in filter(None, (csv_file, parquet_file, plot_file)):
        folder = Path(name).absolute().parent
        if not folder.is_dir():
            raise CommandError(f"there is no folder {folder}", "make it first", status=2)


def _file(tasks: str) -> Path | None:
    """The task file that is meant, where one is: by its ending, or because it is there."""
    path = Path(tasks).expanduser()
    return path if path.suffix in (".jsonl", ".json", ".ndjson") or path.is_file() else None


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def _budgets(text: str | None) -> tuple[Think, ...] | None:
    try:
        return tuple(dict.fromkeys(config.think(name) for name in _names(text))) or None
    except ValueError:
        raise CommandError(
            f"--budgets is {text!r}, but must be off, max and numbers of tokens, after commas", status=2
        ) from None


def _seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(name) for name in _names(text)))
    except ValueError:
        found = ()
    if not found or not all(0 <= seed < 2**31 for seed in found):
        raise CommandError(
            f"--seeds is {text!r}, but must be whole numbers from 0 up, after commas", status=2
        )
    return found


def _count(number: int, what: str) -> str:
    return f"{figures.count(number)} {what}{'' if number == 1 else 's'}"
