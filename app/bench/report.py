"""From answers to a report: accuracies with intervals, mean costs, front, where thinking is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args

import msgspec

from app.bench import statistics
from app.bench.grid import Cell, Plan
from app.bench.results import AnswerLine, Results
from app.bench.tasks import Tasks
from engine.build import mull_version
from engine.protocol import Quantity, unavailable
from engine.protocol.bench import BenchEnough, BenchModel, BenchReport, BenchRow
from engine.protocol.receipt import Method, Unit

COSTS: Mapping[str, Callable[[BenchRow], Quantity]] = {
    "flops": lambda row: row.flops,
    "tokens": lambda row: row.tokens,
    "seconds": lambda row: row.seconds,
    "joules": lambda row: row.joules,
}
"""By what rows can be held against each other."""
INTERVAL = "Wilson score interval, 95 %, over problems"
TEST = (
    "exact McNemar test on the same problems, two-sided, 5 % divided by the number of larger budgets; "
    "the bootstrap over problems instead where a problem has several answers"
)


@dataclass(frozen=True)
class Judged:
    """An answer, and whether it is right."""

    line: AnswerLine
    right: bool
    seed: int


@dataclass(frozen=True)
class Measured:
    """A cell's answers by problem, of one seed or of all together."""

    cell: Cell
    seed: int | None
    by_problem: Mapping[tuple[int, str], Sequence[Judged]]

    @property
    def judged(self) -> list[Judged]:
        return [one for answers in self.by_problem.values() for one in answers]

    @property
    def shares(self) -> dict[tuple[int, str], float]:
        """The share of right answers, by seed and problem."""
        return {
            problem: sum(one.right for one in answers) / len(answers)
            for problem, answers in self.by_problem.items()
        }


def judged(
    cells: Iterable[Cell], tasks: Mapping[int, Tasks], samples: int, results: Results
) -> list[Measured]:
    """What there is of the cells' answers, one entry per cell that has any."""
    found = []
    for cell in cells:
        by_problem: dict[tuple[int, str], list[Judged]] = {}
        for item in tasks[cell.seed].items:
            for sample in range(samples):
                line = results.answers.get((cell.id, item.digest, sample))
                if line is not None:
                    one = Judged(line, not line.error and item.accepts(line.answer), cell.seed)
                    by_problem.setdefault((cell.seed, item.digest), []).append(one)
        if by_problem:
            found.append(Measured(cell, cell.seed, by_problem))
    return found


def pooled(measured: Sequence[Measured]) -> list[Measured]:
    """Cells that differ in their seed alone as one."""
    groups: dict[Cell, list[Measured]] = {}
    for one in measured:
        groups.setdefault(msgspec.structs.replace(one.cell, seed=0), []).append(one)
    return [
        Measured(cell, None, {key: value for one in group for key, value in one.by_problem.items()})
        for cell, group in groups.items()
    ]


def report(
    plan: Plan,
    tasks: Mapping[int, Tasks],
    found: Sequence[Measured],
    results: Results,
    against: str,
) -> BenchReport:
    """All that there is to say. Raises KeyError for an unknown `against`."""
    together = pooled(found)
    cells = _marked([_row(one, results) for one in together], COSTS[against])
    first = next(iter(tasks.values()))
    template = plan.template
    return BenchReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        mull=mull_version(),
        tasks=first.name,
        tasks_digest=first.digest if len(tasks) == 1 else "-".join(one.digest for one in tasks.values()),
        split=first.split,
        problems=len(first.items),
        samples=plan.samples,
        seeds=plan.seeds,
        temperature=template.temperature,
        top_p=template.top_p,
        top_k=template.top_k,
        max_tokens=template.max_tokens,
        system=template.system,
        against=against,
        interval=INTERVAL,
        test=TEST,
        results=str(results.path),
        models=tuple(_models(found, results)),
        rows=tuple(_row(one, results) for one in found),
        cells=tuple(cells),
        enough=tuple(_enough(together)),
        notes=(
            *dict.fromkeys(note for one in tasks.values() for note in one.notes),
            *_notes(plan, found, results),
        ),
    )


def _row(one: Measured, results: Results) -> BenchRow:
    judged, shares = one.judged, one.shares
    accuracy = sum(shares.values()) / len(shares)
    low, high = statistics.wilson(accuracy, len(shares))
    answered = [each.line for each in judged if not each.line.error]
    count = len(judged)
    samples = max(len(answers) for answers in one.by_problem.values())
    solved = sum(any(each.right for each in answers) for answers in one.by_problem.values())
    header = results.cells.get(one.cell.id if one.seed is not None else _any_id(judged))
    return BenchRow(
        model=one.cell.model,
        method=one.cell.method,
        budget=one.cell.budget,
        seed=one.seed,
        n=len(shares),
        samples=samples,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        any_right=solved / len(shares) if samples > 1 else None,
        tokens=_mean(answered, lambda line: line.tokens, "1", "measured", "counted by the engine"),
        thinking_tokens=_mean(
            answered, lambda line: line.thinking_tokens, "1", "measured", "counted by the engine"
        ),
        seconds=_mean(
            answered, lambda line: line.seconds, "s", "apportioned", "forwards by their share of the tokens"
        ),
        latency=_mean(answered, lambda line: line.latency_s, "s", "measured", "monotonic clock"),
        flops=_mean(answered, lambda line: line.flops, "FLOP", "derived", "profiles.costs, nothing cached"),
        joules=_joules(answered),
        cut=sum(line.finish == "budget" for line in answered) / count,
        unanswered=count - len(answered),
        temperature=header.environment.temperature if header is not None else None,
        profile=header.environment.profile if header is not None else "",
    )


def _any_id(judged: Sequence[Judged]) -> str:
    return judged[0].line.cell


def _mean(
    lines: Sequence[AnswerLine],
    figure: Callable[[AnswerLine], float],
    unit: Unit,
    method: Method,
    source: str,
) -> Quantity:
    if not lines:
        return unavailable(unit, "there is no answer")
    value = sum(map(figure, lines)) / len(lines)
    return Quantity(value=value, unit=unit, method=method, source=f"mean over answers: {source}")


def _joules(lines: Sequence[AnswerLine]) -> Quantity:
    """The mean; as good as the least of what it is made of, and unknown where one of it is."""
    if not lines:
        return unavailable("J", "there is no answer")
    unknown = next((line for line in lines if line.joules is None), None)
    if unknown is not None:
        return unavailable("J", *unknown.joules_source.split("; "))
    methods: tuple[Method, ...] = get_args(Method)
    worst = max(lines, key=lambda line: methods.index(line.joules_method))

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(lines) if len(known) == len(lines) else None

    return Quantity(
        value=mean(line.joules for line in lines),
        unit="J",
        method=worst.joules_method,
        source=f"mean over answers: {worst.joules_source}",
        low=mean(line.joules_low for line in lines),
        high=mean(line.joules_high for line in lines),
    )


def _marked(rows: Sequence[BenchRow], cost: Callable[[BenchRow], Quantity]) -> list[BenchRow]:
    """The rows, those on the front marked; what has no figure is on none."""
    known = [row for row in rows if cost(row).value is not None]
    marks = statistics.front([(float(cost(row).value or 0), row.accuracy) for row in known])
    on_front = {id(row) for row, mark in zip(known, marks, strict=True) if mark}
    return [msgspec.structs.replace(row, front=id(row) in on_front) for row in rows]


def _enough(together: Sequence[Measured]) -> Iterable[BenchEnough]:
    """For each model and method that thinks, from no thinking on: the budget beyond which nothing is gained.

    Held against each other are the problems that all its budgets have answers to.
    """
    models = list(dict.fromkeys(one.cell.fingerprint for one in together))
    for model in models:
        of_model = [one for one in together if one.cell.fingerprint == model]
        still = [one for one in of_model if one.cell.think == "off"]
        for method in dict.fromkeys(one.cell.method for one in of_model if one.cell.think != "off"):
            steps = sorted(
                (one for one in of_model if one.cell.method == method and one.cell.think != "off"),
                key=lambda one: float("inf") if one.cell.think == "max" else float(one.cell.think),
            )
            own = [one for one in still if one.cell.method == method]
            ladder = [*(own or still)[:1], *steps]
            common = set.intersection(*(set(one.by_problem) for one in ladder))
            if len(ladder) < 2 or not common:
                continue
            order = sorted(common)
            shares = [[one.shares[problem] for problem in order] for one in ladder]
            at = statistics.enough(shares)
            here, last, larger = shares[at], shares[-1], len(ladder) - 1 - at
            yield BenchEnough(
                model=ladder[at].cell.model,
                method=method,
                budget=ladder[at].cell.budget,
                accuracy=sum(here) / len(here),
                most=ladder[-1].cell.budget,
                gain=(sum(last) - sum(here)) / len(here),
                p=statistics.paired(here, last) if larger else None,
                threshold=statistics.SIGNIFICANT / larger if larger else None,
            )


def _models(found: Sequence[Measured], results: Results) -> Iterable[BenchModel]:
    seen: set[str] = set()
    for one in found:
        header = results.cells.get(one.cell.id)
        if one.cell.fingerprint not in seen:
            seen.add(one.cell.fingerprint)
            yield BenchModel(
                model=one.cell.model,
                fingerprint=one.cell.fingerprint,
                environment=header.environment if header is not None else None,
                parallel=header.parallel if header is not None else 0,
            )


def _notes(plan: Plan, found: Sequence[Measured], results: Results) -> Iterable[str]:
    """What a reader of the figures should know."""
    everything = [one for cell in found for one in cell.judged]
    unanswered = sum(bool(one.line.error) for one in everything)
    if unanswered:
        yield f"{unanswered:,} answers do not fit into the context and count as wrong"
    if len({len(cell.by_problem) for cell in found}) > 1:
        yield "the bench is not finished: rows have answers to different numbers of problems"
    for model in dict.fromkeys(cell.cell.model for cell in found):
        thinking = [cell for cell in found if cell.cell.model == model and cell.cell.think != "off"]
        if thinking and not any(one.line.thinking_tokens for cell in thinking for one in cell.judged):
            yield f"{model} has no thinking format that mull knows: all its budgets are the same"
    temperatures = [header.environment.temperature for header in results.cells.values()]
    asked = plan.template.temperature
    if plan.samples > 1 and (asked == 0 or (asked is None and temperatures and not any(temperatures))):
        yield "the temperature is 0: all samples of a problem are the same; set --temperature"
    cached = sum(one.line.cached_tokens for one in everything)
    prompts = sum(one.line.prompt_tokens for one in everything)
    if prompts and cached / prompts > 0.01:
        yield f"{cached / prompts:.0%} of prompts were cached: seconds and joules are without these tokens"
    cut = sum(one.line.finish == "length" for one in everything)
    if everything and cut / len(everything) > 0.01:
        yield f"{cut / len(everything):.0%} of answers were cut at --max-tokens"
