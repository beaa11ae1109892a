"""Measures how fast a model runs, on the Backend's primitives alone, as answers use them. Knows no torch."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from engine.backend import EVICTED, Backend, Extension, Lease, Node, Sampler
from engine.meter.speed import Run, Work, build
from engine.meter.tally import step
from engine.protocol import Cancel, Control
from engine.protocol.speed import Measuring, SpeedReport, SpeedRequest
from engine.thinking.refusals import UsageError

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
TELL_S = 0.1
"""Seconds between two reports of progress."""

Result = TypeVar("Result")


class Stopped(Exception):
    """Nobody wants the measurement any more."""


class DoesNotFit(UsageError):
    """The cache cannot hold what is asked for."""

    code: Literal["usage", "fit", "overflow"] = "fit"


@dataclass
class Stop:
    """Takes a cancellation to what is being measured; it may come before that begins."""

    asked: bool = False
    _leases: list[Lease] = field(default_factory=list)

    def control(self, control: Control) -> None:
        if isinstance(control, Cancel):
            self.asked = True
            for lease in self._leases:
                lease.cancelled = True

    def lend(self, tokens: int) -> Lease:
        """A lease that a cancellation ends."""
        lease = Lease(tokens)
        self._leases.append(lease)
        return lease

    def check(self) -> None:
        """Let go of the leases that have been used. Raises Stopped."""
        self._leases.clear()
        if self.asked:
            raise Stopped


async def measure(
    request: SpeedRequest, backend: Backend, emit: Callable[[Measuring], None], stop: Stop
) -> SpeedReport:
    """The report, with events on the way. Raises UsageError and Stopped."""
    _check(request, backend)
    progress = _Progress(request, emit)
    progress.stage("measuring memory and arithmetic")
    found = await backend.measure_limits()
    progress.stage("warming up")
    await _run(request, backend, stop, progress)
    runs = []
    for number in range(1, request.runs + 1):
        progress.stage(f"run {number} of {request.runs}")
        runs.append(await _run(request, backend, stop, progress))
    return build(request, backend, GREEDY, found, runs)


def _check(request: SpeedRequest, backend: Backend) -> None:
    """Raises UsageError for what cannot be measured, or not on this model as it is loaded."""
    for name, least in (("prompt", 1), ("generate", 2), ("batch", 1), ("runs", 1)):
        if getattr(request, name) < least:
            raise UsageError(f"{name} is {getattr(request, name)}, but must be at least {least}")
    tokens, info = request.prompt + request.generate, backend.info
    if tokens > info.context:
        larger = f", or a larger --context, up to {info.longest_context:,}"
        raise UsageError(
            f"{request.prompt:,} + {request.generate:,} tokens are more than the context of {info.context:,}",
            "use fewer" + (larger if info.longest_context > info.context else ""),
        )
    rows = backend.capacity(tokens)
    if request.batch > rows:
        raise DoesNotFit(
            f"the cache holds {rows} rows of {tokens:,} tokens, not {request.batch:,}",
            "use a smaller --batch, fewer tokens or a larger --context",
        )


class _Progress:
    """Says how far the runs are, at most every TELL_S; of many rows, the first speaks for all."""

    def __init__(self, request: SpeedRequest, emit: Callable[[Measuring], None]) -> None:
        self._rows = request.batch
        self._total = (request.runs + 1) * request.batch * (request.prompt + request.generate)
        self._emit = emit
        self._stage = ""
        self._done = self._in_prompt = 0
        self._next = 0.0

    def stage(self, name: str) -> None:
        self._stage, self._next = name, 0.0
        self._tell()

    def prefilled(self, done: int, cached: int) -> None:
        self._add(done - self._in_prompt)
        self._in_prompt = done

    def sampled(self, ids: Sequence[int]) -> None:
        self._in_prompt = 0
        self._add(len(ids))

    def _add(self, tokens: int) -> None:
        self._done += tokens * self._rows
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TELL_S
            self._emit(Measuring(stage=self._stage, done=self._done, total=self._total))


async def _run(request: SpeedRequest, backend: Backend, stop: Stop, progress: _Progress) -> Run:
    """Prefill all rows, then decode on all of them.

    Each prompt is new: nothing of it can be cached. Nothing is guessed: that depends on the text.
    """
    stop.check()
    ids = backend.tokenizer.plain_ids()
    prompts = [random.choices(ids, k=request.prompt) for _ in range(request.batch)]
    nodes: list[Node] = []

    async def prefill(row: int) -> None:
        told = progress.prefilled if row == 0 else None
        nodes.append(await backend.prefill(prompts[row], stop.lend(0), told))

    async def extend(row: int) -> Extension:
        told = progress.sampled if row == 0 else None
        lease = stop.lend(request.generate)
        return await backend.extend(nodes[row], "answer", lease, GREEDY, guess=False, on_tokens=told)

    try:
        began = time.monotonic_ns()
        await _all(prefill(row) for row in range(request.batch))
        prefilled = time.monotonic_ns()
        stop.check()
        extensions = await _all(extend(row) for row in range(request.batch))
        stop.check()
    except MemoryError as error:
        raise DoesNotFit(str(error), "use a smaller --batch or fewer tokens") from error
    finally:
        await asyncio.gather(*(backend.cancel(node, forget=True) for node in nodes))
    accounts = [node.account for node in nodes]
    if any(extension.reason != "limit" for extension in extensions):
        raise DoesNotFit("there was no memory for all rows to the end", "use a smaller --batch")
    if short := [note for account in accounts for note in account.degradations if note != EVICTED]:
        raise DoesNotFit(f"memory ran short while measuring: {short[0]}", "use a smaller --batch")
    steps = [step(backend, "0", work) for account in accounts for work in account.forwarded]
    first_ns = [account.sampled_ns[0] for account in accounts]
    decode_s = (max(account.sampled_ns[-1] for account in accounts) - min(first_ns)) / 1e9
    return Run(
        prefill=Work.of((prefilled - began) / 1e9, [entry for entry in steps if entry.phase == "prefill"]),
        decode=Work.of(decode_s, [entry for entry in steps if entry.phase != "prefill"]),
        first_token_s=(max(first_ns) - began) / 1e9,
    )


async def _all(awaitables: Iterable[Awaitable[Result]]) -> list[Result]:
    """The results when all have ended, or the first failure: nothing goes on behind it."""
    done = await asyncio.gather(*awaitables, return_exceptions=True)
    results: list[Result] = []
    for result in done:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
