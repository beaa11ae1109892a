"""The local Backend: the primitives over one model in this process, executed by one worker thread.

Knows the event loop and the thread; what a primitive does is in `primitives`. Nothing of methods or budgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import torch
import transformers

from engine.backend import (
    Extension,
    Lease,
    MemoryUse,
    Node,
    OutOfContext,
    Sampler,
    Tokenizer,
    WindDown,
)
from engine.protocol import ModelInfo, Phase
from engine.runtime import sequence as sequences
from engine.runtime.delivery import Job, TokenDelivery
from engine.runtime.memory import system_memory
from engine.runtime.primitives import Primitives, Rules
from engine.runtime.runner import Runner
from profiles.catalogue import Profile
from profiles.costs import ModelShape

Result = TypeVar("Result")


class LocalBackend:
    """Implements `engine.backend.Backend`. Primitives run one after another, in the order of the calls."""

    def __init__(
        self,
        *,
        info: ModelInfo,
        shape: ModelShape,
        profile: Profile,
        tokenizer: Tokenizer,
        defaults: Sampler,
        kernel_class: str,
        runner: Runner,
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
        self.runner = runner
        self._primitives = Primitives(runner, info.context)
        self._closed = False
        # torch keeps the number of threads per thread that starts them.
        self._thread = ThreadPoolExecutor(1, "engine", lambda: torch.set_num_threads(info.threads))

    async def prefill(
        self, ids: Sequence[int], lease: Lease, on_progress: Callable[[int, int], None] | None = None
    ) -> Node:
        """A new node with the prompt in its cache, or with the part of it that a cancelled lease left.

        Raises OutOfContext, and ValueError for no ids.
        """
        if not ids:
            raise ValueError("a prompt has at least one token")
        self._check_fits(len(ids))
        sequence = sequences.Sequence(self.runner.pool)

        def work(job: Job) -> None:
            def report(done: int) -> None:
                if on_progress:
                    job.loop.call_soon_threadsafe(on_progress, done, sequence.account.cached)

            self._primitives.prefill(sequence, ids, self._cancelled(job, lease), report)

        try:
            await self._run(work)
        except BaseException:
            if not self._closed:
                self._thread.submit(sequence.release)
            raise
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
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
    ) -> Extension:
        """Sample onto the node; see `engine.backend.Backend.extend`."""
        sequence = cast(sequences.Sequence, node)

        rules = Rules(stop, keep, banned, wind_down)

        def work(job: Job) -> Extension:
            delivery = TokenDelivery(job, on_tokens)
            cancelled = self._cancelled(job, lease)
            try:
                return self._primitives.extend(
                    sequence, phase, lease, sampler, rules, cancelled, delivery.add
                )
            finally:
                delivery.flush()

        return await self._run(work)

    async def force(self, node: Node, phase: Phase, ids: Sequence[int]) -> None:
        """Put ids into the node as if they had been sampled. Raises OutOfContext."""
        sequence = cast(sequences.Sequence, node)
        self._check_fits(len(sequence.ids) + len(ids))
        await self._run(lambda job: self._primitives.force(sequence, phase, ids, self._cancelled(job)))

    async def cancel(self, node: Node) -> None:
        """Release the node's pages; idempotent. With the backend closed they are gone already."""
        if not self._closed:
            await self._run(lambda _: cast(sequences.Sequence, node).release())

    def memory(self) -> MemoryUse:
        """Bytes in use now; of the pool, a CPU has committed the pages that were ever handed out."""
        pool, system = self.runner.pool, system_memory(self.info.device)
        committed = pool.touched if self.info.device == "cpu" else pool.pages
        return MemoryUse(
            weights=self.info.weight_bytes,
            kv_used=pool.held * pool.page_bytes,
            kv_allocated=committed * pool.page_bytes,
            kv_idle=pool.idle * pool.page_bytes,
            process=system.process,
            process_peak=system.process_peak,
            free=system.free,
            device_used=system.device_used,
            device_total=system.device_total,
        )

    def close(self) -> None:
        """Cancel what runs, then let go of model and pages."""
        self._closed = True
        self._thread.shutdown(wait=True, cancel_futures=True)
        del self.runner, self._primitives
        if self.info.device.startswith("cuda"):
            torch.cuda.empty_cache()

    async def _run(self, work: Callable[[Job], Result]) -> Result:
        """Run on the worker thread; where the awaiting task is cancelled, stop it there first."""
        job = Job()
        future = job.loop.run_in_executor(self._thread, work, job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            job.abandoned = True
            await asyncio.wait([future])
            raise

    def _check_fits(self, tokens: int) -> None:
        if tokens > self.info.context:
            raise OutOfContext(tokens, self.info.context)

    def _cancelled(self, job: Job, lease: Lease | None = None) -> Callable[[], bool]:
        """Asks whether nobody wants the job any more."""
        return lambda: self._closed or job.abandoned or (lease is not None and lease.cancelled)
