"""The local Backend: the primitives over one model in this process, executed by one worker thread.

Knows the runner, the sampler and the pages; nothing of methods, formats or budgets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar, cast

import torch
import transformers

from engine.backend import (
    Capabilities,
    Extension,
    Forwarded,
    Kind,
    Lease,
    MemoryUse,
    Node,
    OutOfContext,
    Sampler,
    StopReason,
    Tokenizer,
    WindDown,
)
from engine.protocol import ModelInfo, Phase
from engine.runtime import sequence as sequences
from engine.runtime.delivery import Job, TokenDelivery
from engine.runtime.memory import system_memory
from engine.runtime.runner import Runner
from engine.runtime.sampler import choose
from profiles.catalogue import Profile
from profiles.costs import ModelShape

CHUNK = 512
"""Prompt tokens per forward; cancellation is looked at in between."""

Result = TypeVar("Result")


class LocalBackend:
    """Implements `engine.backend.Backend`. Primitives run one after another, in the order of the calls."""

    capabilities = Capabilities(logits=True, force=True)

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
        try:
            await self._run(lambda job: self._prefill(job, sequence, ids, lease, on_progress))
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

        def work(job: Job) -> Extension:
            delivery = TokenDelivery(job, on_tokens)
            try:
                return self._extend(
                    job, sequence, phase, lease, sampler, stop, keep, banned, wind_down, delivery
                )
            finally:
                delivery.flush()

        return await self._run(work)

    async def force(self, node: Node, phase: Phase, ids: Sequence[int]) -> None:
        """Put ids into the node as if they had been sampled. Raises OutOfContext."""
        sequence = cast(sequences.Sequence, node)
        self._check_fits(len(sequence.ids) + len(ids))
        await self._run(lambda job: self._force(job, sequence, phase, ids))

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
        del self.runner
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

    def _prefill(
        self,
        job: Job,
        sequence: sequences.Sequence,
        ids: Sequence[int],
        lease: Lease,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        for begin in range(0, len(ids), CHUNK):
            if self._cancelled(job, lease):
                return
            chunk = list(ids[begin : begin + CHUNK])
            last = begin + len(chunk) == len(ids)
            sequence.ids += chunk
            self._forward(sequence, "prefill", "prefilled", "prefill", logits=last)
            if on_progress:
                job.loop.call_soon_threadsafe(on_progress, begin + len(chunk), len(ids))

    def _extend(
        self,
        job: Job,
        sequence: sequences.Sequence,
        phase: Phase,
        lease: Lease,
        sampler: Sampler,
        stop: frozenset[int],
        keep: frozenset[int],
        banned: frozenset[int],
        wind_down: WindDown | None,
        delivery: TokenDelivery,
    ) -> Extension:
        sampled: list[int] = []
        while (reason := self._why_end(job, sequence, lease)) is None:
            self._forward_pending(sequence)
            token = choose(
                sequence.logits,
                sampler,
                len(sequence.ids),
                sequence.path,
                banned,
                _ramp(wind_down, lease, sequence.ids[-1]) if wind_down else None,
            )
            lease.used += 1
            sequence.account.sampled_ns.append(time.monotonic_ns())
            if token in stop and token not in keep:
                return Extension(tuple(sampled), "stop", token)
            sequence.ids.append(token)
            sequence.pending_phase = phase
            sampled.append(token)
            if token in keep:
                return Extension(tuple(sampled), "stop", token)
            delivery.add(token)
            if wind_down and token in wind_down.sentence_ends and lease.used >= wind_down.grace * lease.limit:
                reason = "limit"
                break
        return Extension(tuple(sampled), reason)

    def _cancelled(self, job: Job, lease: Lease | None = None) -> bool:
        return self._closed or job.abandoned or (lease is not None and lease.cancelled)

    def _why_end(self, job: Job, sequence: sequences.Sequence, lease: Lease) -> StopReason | None:
        """Why no further token may be sampled, if so. The lease is read anew for each token."""
        if self._cancelled(job, lease):
            return "cancelled"
        if lease.ended:
            return "ended"
        if lease.used >= lease.limit:
            return "limit"
        return "context" if len(sequence.ids) >= self.info.context else None

    def _force(self, job: Job, sequence: sequences.Sequence, phase: Phase, ids: Sequence[int]) -> None:
        if not self._cancelled(job):
            self._forward_pending(sequence)
        for begin in range(0, len(ids), CHUNK):
            if self._cancelled(job):
                return
            sequence.ids += ids[begin : begin + CHUNK]
            self._forward(sequence, "force", "forced", phase)

    def _forward_pending(self, sequence: sequences.Sequence) -> None:
        """A pending id is forwarded under the phase in which it was sampled, whoever needs it now."""
        if sequence.pending:
            self._forward(sequence, "extend", sequence.pending_phase, sequence.pending_phase)

    def _forward(
        self,
        sequence: sequences.Sequence,
        primitive: Literal["prefill", "extend", "force"],
        kind: Kind,
        phase: Literal["prefill", "thinking", "answer"],
        *,
        logits: bool = True,
    ) -> None:
        """Put the sequence's ids that are not cached through the model, and enter them in its account."""
        context = sequence.cached
        ids = sequence.ids[context:]
        began = time.perf_counter()
        self.runner.forward(sequence, ids, logits=logits)
        seconds = time.perf_counter() - began
        sequence.account.forwarded.append(
            Forwarded(primitive, kind, phase, len(ids), context, int(logits), seconds)
        )


def _ramp(wind_down: WindDown, lease: Lease, last: int) -> tuple[int, float] | None:
    """What is added to the ending token's logit after `last`: rising linearly from `soft` to the limit."""
    if last not in wind_down.sentence_ends:
        return None
    progress = (lease.used / lease.limit - wind_down.soft) / (1 - wind_down.soft)
    return (wind_down.token, wind_down.strength * min(progress, 1.0)) if progress > 0 else None
