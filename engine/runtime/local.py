"""The local Backend: the primitives over one model in this process, run together by the scheduler's thread.

Knows the event loop; what a primitive does is in `primitives`. Nothing of methods or budgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import Any, TypeVar, cast

import torch
import transformers

from engine.backend import (
    Choice,
    EnergyCounter,
    Extension,
    Lease,
    Limits,
    MemoryUse,
    Node,
    OutOfContext,
    Probe,
    Rechosen,
    Sampler,
    Tokenizer,
    WindDown,
)
from engine.protocol import IgnoredFiles, ModelInfo, Phase, PromptStoreState
from engine.runtime import limits, primitives, rechoosing
from engine.runtime import sequence as sequences
from engine.runtime.delivery import INTERVAL, Job, TokenDelivery
from engine.runtime.memory import system_memory
from engine.runtime.pages import PAGE
from engine.runtime.pool import Pool
from engine.runtime.runner import AnyRunner
from engine.runtime.sampling import Rules, Sampling
from engine.runtime.scheduler import Scheduler, Work
from engine.runtime.speculation import Speculation
from engine.runtime.store import PromptStore
from engine.runtime.watch import Watcher
from profiles.catalogue import Profile
from profiles.costs import ModelShape

Result = TypeVar("Result")


class LocalBackend:
    """Implements `engine.backend.Backend`. Primitives that are awaited at once share forwards."""

    def __init__(
        self,
        *,
        info: ModelInfo,
        shape: ModelShape,
        profile: Profile,
        tokenizer: Tokenizer,
        defaults: Sampler,
        kernel_class: str,
        runner: AnyRunner,
        speculation: Speculation | None = None,
        store: PromptStore | None = None,
    ) -> None:
        self.info = info
        self.shape = shape
        self.profile = profile
        self.tokenizer = tokenizer
        self.defaults = defaults
        self.kernel_class = kernel_class
        self.versions: Mapping[str, str] = {
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
        }
        self.energy: EnergyCounter | None = None
        self.runner = runner
        self.speculation = speculation
        self._drafter = speculation.drafter if speculation is not None else None
        self.draft = self._drafter.info if self._drafter is not None else None
        self._scheduler = Scheduler(runner, info.threads)
        self._store = store
        if store is not None:
            self._scheduler.idle_work = store.idle_work
            store.on_room = self._look_for_idle_work
        self._closed = False

    async def prefill(
        self, ids: Sequence[int], lease: Lease, on_progress: Callable[[int, int], None] | None = None
    ) -> Node:
        """A new node with the prompt in its cache, or with the part of it that a cancelled lease left.

        Raises OutOfContext, MemoryError, and ValueError for no ids.
        """
        if not ids:
            raise ValueError("a prompt has at least one token")
        self._check_fits(len(ids))
        sequence = sequences.Sequence(self.runner.pool)
        if lease.cancelled:
            return sequence
        job = Job()

        def report(done: int) -> None:
            if on_progress:
                job.loop.call_soon_threadsafe(on_progress, done, sequence.account.cached)

        restored = await self._restore(ids[:-1], lease)
        sequence.prompt = len(ids)
        try:
            await self._run(job, sequence, primitives.prefill(sequence, ids, report), lease)
        except BaseException:
            await self.cancel(sequence)
            raise
        sequence.account.restored = min(restored, sequence.account.cached)
        return sequence

    async def extend(
        self,
        node: Node,
        phase: Phase,
        lease: Lease,
        sampler: Sampler,
        *,
        stop: frozenset[int] = frozenset(),
        keep: frozenset[int] = frozenset(),
        banned: frozenset[int] = frozenset(),
        wind_down: WindDown | None = None,
        watch: bool = False,
        guess: bool = True,
        live: bool = True,
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
    ) -> Extension:
        """Sample onto the node; see `engine.backend.Backend.extend`."""
        sequence, job = cast(sequences.Sequence, node), Job()
        delivery = TokenDelivery(job, on_tokens, INTERVAL if live else inf)
        rules = Rules(stop, keep, banned, wind_down)
        watcher = Watcher() if watch else None
        sampling = Sampling(phase, lease, sampler, rules, delivery.add, watcher)
        speculator = self.speculation if guess else None

        def work() -> primitives.Extending:
            try:
                return (
                    yield from primitives.extend(sequence, sampling, self.info.context, speculator=speculator)
                )
            finally:
                delivery.flush()

        return await self._run(job, sequence, work(), lease)

    async def force(self, node: Node, phase: Phase, ids: Sequence[int]) -> None:
        """Put ids into the node as if they had been sampled. Raises OutOfContext and MemoryError."""
        sequence = cast(sequences.Sequence, node)
        self._check_fits(len(sequence.ids) + len(ids))
        await self._run(Job(), sequence, primitives.force(sequence, phase, ids))

    async def fork(self, node: Node, count: int) -> list[Node]:
        """Nodes that go on from where this one is; see `engine.backend.Backend.fork`."""
        if count < 1:
            raise ValueError(f"a node cannot be forked {count} times")
        sequence = cast(sequences.Sequence, node)
        return list(await self._forks(lambda: [sequence.fork() for _ in range(count)]))

    async def probe(
        self,
        node: Node,
        ids: Sequence[int],
        limit: int,
        sampler: Sampler,
        *,
        phase: Phase = "thinking",
        stop: frozenset[int] = frozenset(),
    ) -> Probe | None:
        """What the node would go on with; see `engine.backend.Backend.probe`."""
        sequence, job, watcher = cast(sequences.Sequence, node), Job(), Watcher()
        self._check_fits(len(sequence.ids) + len(ids))
        sampling = Sampling(phase, Lease(limit), sampler, Rules(stop=stop), lambda _: None, watcher)
        async with self._aside(sequence) as fork:
            found: Probe | None = await self._run(
                job, fork, primitives.probe(fork, ids, sampling, self.info.context, watcher)
            )
        return found

    async def score(self, node: Node, ids: Sequence[int], phase: Phase = "answer") -> list[float]:
        """The ids' log-probabilities after the node; see `engine.backend.Backend.score`."""
        sequence = cast(sequences.Sequence, node)
        self._check_fits(len(sequence.ids) + len(ids))
        if not ids:
            return []
        async with self._aside(sequence) as fork:
            return await self._run(Job(), fork, primitives.score(fork, phase, ids))

    async def rechoose(
        self,
        prompt: Sequence[int],
        paths: Sequence[tuple[Sequence[int], Sequence[Choice]]],
        lease: Lease,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Rechosen]]:
        """Make choices again; see `engine.backend.Backend.rechoose`."""
        self._check_fits(len(prompt) + max((len(ids) for ids, _ in paths), default=0))
        job, root = Job(), sequences.Sequence(self.runner.pool)

        def told(tokens: int) -> None:
            if on_progress:
                job.loop.call_soon_threadsafe(on_progress, tokens)

        made, found = [root], []
        try:
            await self._run(job, root, rechoosing.read(root, prompt, told), lease)
            for ids, choices in paths:
                if lease.cancelled:
                    break
                made += await self._forks(lambda: [root.fork()])
                work = rechoosing.rechoose(made[-1], ids, choices, told)
                found.append(await self._run(job, made[-1], work, lease))
                await self.cancel(made[-1], forget=True)
        finally:
            for sequence in reversed(made):
                await self.cancel(sequence, forget=True)
        return found

    async def cancel(self, node: Node, *, forget: bool = False, store: bool = True) -> None:
        """Release the node's pages; idempotent. With the backend closed they are gone already."""
        if not self._closed:
            await self._call(lambda: self._release(cast(sequences.Sequence, node), forget, store))

    def memory(self) -> MemoryUse:
        """Bytes in use now."""
        system, weights = system_memory(self.info.device), self.info.weight_bytes
        pools: list[Pool] = [self.runner.pool]
        if self._drafter is not None:
            weights += self._drafter.weight_bytes
            pools += [self._drafter.pool] if self._drafter.pool is not None else []
        return MemoryUse(
            weights=weights,
            kv_used=sum(pool.used_bytes for pool in pools),
            kv_allocated=sum(pool.allocated_bytes for pool in pools),
            kv_idle=sum(pool.idle_bytes for pool in pools),
            process=system.process,
            process_peak=system.process_peak,
            free=system.free,
            device_used=system.device_used,
            device_total=system.device_total,
        )

    def prompt_store(self) -> PromptStoreState | None:
        """What is done with prompts on disk."""
        if self._store is None:
            return None
        ignored = self._store.ignored().items()
        return PromptStoreState(
            folder=str(self._store.folder),
            budget_bytes=self._store.budget,
            ignored=tuple(IgnoredFiles(reason=reason, files=count) for reason, count in ignored),
        )

    async def cached(self, ids: Sequence[int]) -> int:
        """How many tokens of a prompt are in memory; one that came from disk would be more."""

        def look() -> int:
            pool = self.runner.pool
            table, tokens = pool.match(ids[:-1])
            pool.release(table, ids[:tokens])
            return tokens

        return await self._call(look)

    def capacity(self, tokens: int) -> int:
        """How many nodes of so many tokens the pool holds at once."""
        return self.runner.pool.capacity(tokens)

    async def measure_limits(self) -> Limits:
        """Measure memory and arithmetic, between two forwards; takes seconds."""
        return await self._call(lambda: limits.measure(self.info.device, self.info.dtype))

    def close(self) -> None:
        """Cancel what runs, write what waits for the disk, then let go of model and pages."""
        self._closed = True
        self._scheduler.close()
        if self._store is not None:
            self._store.close()
        del self.runner, self._scheduler, self.speculation, self._drafter, self._store
        if self.info.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _look_for_idle_work(self) -> None:
        self._scheduler.call(lambda: None)

    async def _restore(self, ids: Sequence[int], lease: Lease) -> int:
        """Bring back from disk what memory lacks of a prompt's beginning; how many tokens that was."""
        store, restored = self._store, 0
        while store is not None and not lease.cancelled:
            pages = await asyncio.to_thread(store.read, ids)
            if pages is None:
                break
            found = await self._call(partial(store.restore, pages))
            if not found:  # others need the memory
                break
            restored += found
            if len(pages.ids) == len(ids) // PAGE * PAGE:
                break
        return restored

    async def _run(
        self,
        job: Job,
        sequence: sequences.Sequence,
        primitive: Generator[primitives.Want, torch.Tensor | None, Result],
        lease: Lease | None = None,
    ) -> Result:
        """Run on the engine's thread; where the awaiting task is cancelled, stop it there first."""

        def cancelled() -> bool:
            return job.abandoned or (lease is not None and lease.cancelled)

        future = asyncio.wrap_future(self._scheduler.submit(Work(primitive, sequence, cancelled)))
        try:
            return cast(Result, await asyncio.shield(future))
        except asyncio.CancelledError:
            job.abandoned = True
            await _ended(future)
            raise

    async def _call(self, function: Callable[[], Result]) -> Result:
        """Run between two forwards, to its end even where the awaiting task is cancelled."""
        future = asyncio.wrap_future(self._scheduler.call(function))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _ended(future)
            raise

    async def _forks(self, make: Callable[[], list[sequences.Sequence]]) -> list[sequences.Sequence]:
        """Forks that may be pre-empted from now on; released where nobody waits for them any more."""
        made: list[sequences.Sequence] = []

        def fork() -> None:
            made.extend(make())
            for sequence in made:
                self._scheduler.ladder.watch(sequence)

        try:
            await self._call(fork)
        except asyncio.CancelledError:
            for sequence in made:
                await self.cancel(sequence)
            raise
        return made

    @asynccontextmanager
    async def _aside(self, sequence: sequences.Sequence) -> AsyncIterator[sequences.Sequence]:
        """A fork to try something on, charged to the sequence's account; its path is the sequence's own."""
        [fork] = await self._forks(lambda: [sequence.branch()])
        try:
            yield fork
        finally:
            await self.cancel(fork)

    def _release(self, sequence: sequences.Sequence, forget: bool, store: bool) -> None:
        sequence.release(sound=not forget)
        if self._store is not None and store and not forget:
            self._store.offer(sequence.ids[: sequence.prompt])
        if self.speculation is not None:
            self.speculation.forget(sequence)

    def _check_fits(self, tokens: int) -> None:
        if tokens > self.info.context:
            raise OutOfContext(tokens, self.info.context)


async def _ended(future: asyncio.Future[Any]) -> None:
    """Wait for what the engine's thread is about to end, however often the waiting task is cancelled."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
