"""Has the engine answer what is missing, many at once, and keeps each answer as it comes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from app.bench.grid import Cell
from app.bench.results import AnswerLine, CellLine, Results
from app.bench.tasks import Item
from app.cli.engine import failure
from app.errors import CommandError
from engine.protocol import (
    Answer,
    AnswerRequest,
    Event,
    Failed,
    Finished,
    Loaded,
    Loading,
    Message,
    ModelSpec,
)

TRIES = 3
"""How often an answer is asked for where the engine goes away: it is started anew."""
CALM = 64
"""Answers in a row that did not have to give way for want of memory before more are asked for at once."""


class Answering(Protocol):
    """What a run needs of an engine."""

    def load(self, spec: ModelSpec) -> AsyncGenerator[Event, None]: ...

    def answer(self, request: AnswerRequest) -> AsyncGenerator[Event, None]: ...


@dataclass(frozen=True)
class Wanted:
    """An answer that a bench wants."""

    cell: Cell
    item: Item
    sample: int

    @property
    def key(self) -> tuple[str, str, int]:
        """As that of the AnswerLine which it becomes."""
        return self.cell.id, self.item.digest, self.sample


@dataclass
class Progress:
    """How far a model's answers are, for whoever shows it. Of `total`, `known` were there from earlier."""

    model: str
    total: int
    known: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float | None:
        """At the pace so far; None before there is one."""
        spent = time.monotonic() - self.began
        return (self.total - self.known - self.done) * spent / self.done if self.done else None


def wanted(cells: Iterable[Cell], items: Mapping[int, tuple[Item, ...]], samples: int) -> list[Wanted]:
    """All answers of some cells, in turn, so that the pace at any time is that of the whole.

    `items` are the problems by seed. Each cell begins with another problem: a prompt that others run with
    at the same time would be in the cache for them, and their time be less than their own.
    """
    by_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        by_seed.setdefault(cell.seed, []).append(cell)
    return [
        Wanted(cell, items[seed][(at + number * len(items[seed]) // len(group)) % len(items[seed])], sample)
        for seed, group in by_seed.items()
        for at in range(len(items[seed]))
        for number, cell in enumerate(group)
        for sample in range(samples)
    ]


async def load(engine: Answering, spec: ModelSpec, tell: Callable[[str], None]) -> Loaded:
    """Have a model in memory. Raises CommandError."""
    async with aclosing(engine.load(spec)) as events:
        async for event in events:
            match event:
                case Loading(stage=stage):
                    tell(f"{spec.model}: {stage}…")
                case Failed():
                    raise failure(event)
                case Loaded():
                    return event
    raise CommandError("the engine ended without loading the model", "try again")


class Run:
    """One model's answers."""

    def __init__(
        self, engine: Answering, spec: ModelSpec, results: Results, parallel: int, tell: Callable[[], None]
    ) -> None:
        """`tell` is called whenever an answer has come."""
        self._engine = engine
        self._spec = spec
        self._results = results
        self._parallel = self._most = parallel
        self._tell = tell
        self._calm = 0

    async def answers(self, missing: list[Wanted], progress: Progress) -> None:
        """Have them all answered and kept. Raises CommandError for the first that cannot be."""
        left = iter(missing)
        running: dict[asyncio.Task[AnswerLine], int] = {}
        try:
            while self._fill(running, left):
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del running[task]
                    self._results.add(task.result())
                    progress.done += 1
                self._tell()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _fill(self, running: dict[asyncio.Task[AnswerLine], int], left: Iterator[Wanted]) -> bool:
        """Begin what may begin; whether anything is under way. An answer counts with all its candidates."""
        while sum(running.values()) < self._parallel and (one := next(left, None)) is not None:
            running[asyncio.create_task(self._answer(one))] = one.cell.candidates
        return bool(running)

    async def _answer(self, one: Wanted) -> AnswerLine:
        cell = one.cell
        system = (Message("system", cell.system),) if cell.system else ()
        request = AnswerRequest(
            id=f"bench-{os.getpid()}-{cell.id}-{one.item.digest}-{one.sample}",
            spec=self._spec,
            messages=(*system, Message("user", one.item.prompt)),
            method=cell.method,
            think=cell.think,
            sampling=cell.sampling(one.sample),
            max_tokens=cell.max_tokens,
            bulk=True,
        )
        answer: Answer | Failed | None = None
        for last in (False,) * (TRIES - 1) + (True,):
            answer = answer or await self._asked(request, last)
        assert answer is not None  # the last try gives one, or raises
        if isinstance(answer, Failed):
            return AnswerLine(
                cell=cell.id,
                problem=one.item.digest,
                sample=one.sample,
                answer="",
                finish="error",
                error=answer.message,
            )
        if answer.finish == "cancelled":
            raise CommandError("the engine was stopped", "the same command goes on from here")
        self._adapt(answer)
        if cell.id not in self._results.cells:
            self._results.add(
                CellLine(
                    id=cell.id, cell=cell, environment=answer.receipt.environment, parallel=self._parallel
                )
            )
        return _line(one, answer)

    async def _asked(self, request: AnswerRequest, last: bool) -> Answer | Failed | None:
        """The answer; a failure that is the problem's own; or None where it is worth another try."""
        async with aclosing(self._engine.answer(request)) as events:
            async for event in events:
                match event:
                    case Finished(answer=answer):
                        return answer
                    case Failed(code="overflow"):
                        return event
                    case Failed(code="engine") if not last:
                        return None
                    case Failed():
                        raise failure(event)
        raise CommandError("the engine ended without an answer", "try again")

    def _adapt(self, answer: Answer) -> None:
        """Ask for fewer at once where memory was short, and for more again where it no longer is."""
        if any(event.startswith("pre-empted") for event in answer.receipt.state.degradations):
            self._parallel, self._calm = max(1, self._parallel // 2), 0
        else:
            self._calm += 1
            if self._calm >= CALM and self._parallel < self._most:
                self._parallel, self._calm = self._parallel + 1, 0


def _line(one: Wanted, answer: Answer) -> AnswerLine:
    receipt = answer.receipt
    tokens, energy = receipt.tokens, receipt.energy.total
    saved = receipt.compute.flops_saved_by_cache.value or 0
    return AnswerLine(
        cell=one.cell.id,
        problem=one.item.digest,
        sample=one.sample,
        answer=answer.answer,
        finish=answer.finish,
        prompt_tokens=tokens.prompt,
        tokens=tokens.thinking + tokens.answer + tokens.forced + tokens.discarded + tokens.probe,
        path_tokens=receipt.sequence + tokens.forced,
        thinking_tokens=tokens.thinking,
        cached_tokens=tokens.cached,
        seconds=sum(step.busy for step in receipt.steps),
        latency_s=float(receipt.time.total.value or 0.0),
        flops=int((receipt.compute.flops.total.value or 0) + saved),
        joules=energy.value,
        joules_low=energy.low,
        joules_high=energy.high,
        joules_method=energy.method,
        joules_source=energy.source or "; ".join(energy.reasons),
    )
