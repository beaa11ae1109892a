"""N samples in parallel against one by one: python tests/benchmarks/forked_samples.py [--random bf16].

Both sample the same texts: the sequential run prefills the prompt anew for each, without a cache, as a
program does that calls a model N times; `--cached` leaves it its prefix cache. With `--random` the model has
Qwen3-0.6B's shape, random weights and a vocabulary of 32,000.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "support"))
import qwen3_shape

from engine.backend import Lease, Node, Sampler
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from profiles.detect import detect

Texts = list[tuple[int, ...]]


async def sample(backend: LocalBackend, node: Node, sampler: Sampler, tokens: int) -> tuple[int, ...]:
    return (await backend.extend(node, "answer", Lease(tokens), sampler)).ids


async def forked(
    backend: LocalBackend, ids: list[int], sampler: Sampler, samples: int, tokens: int
) -> tuple[Texts, float, float, int]:
    """The texts, seconds of decoding, seconds in all, and pages held at the end."""
    began = time.perf_counter()
    root = await backend.prefill(ids, Lease(0))
    forks = await backend.fork(root, samples)
    await backend.cancel(root)
    prefilled = time.perf_counter()
    texts = list(await asyncio.gather(*[sample(backend, fork, sampler, tokens) for fork in forks]))
    ended = time.perf_counter()
    held = backend.runner.pool.held
    for fork in forks:
        await backend.cancel(fork)
    return texts, ended - prefilled, ended - began, held


async def sequential(
    backend: LocalBackend, ids: list[int], sampler: Sampler, samples: int, tokens: int, cached: bool
) -> tuple[Texts, float, float]:
    texts: Texts = []
    decoding = 0.0
    began = time.perf_counter()
    for number in range(samples):
        if not cached:
            forget(backend)
        root = await backend.prefill(ids, Lease(0))
        *before, fork = await backend.fork(root, number + 1)
        for node in (root, *before):
            await backend.cancel(node)
        prefilled = time.perf_counter()
        texts.append(await sample(backend, fork, sampler, tokens))
        decoding += time.perf_counter() - prefilled
        await backend.cancel(fork)
    return texts, decoding, time.perf_counter() - began


def forget(backend: LocalBackend) -> None:
    """Empty the prefix cache."""
    pool, table = backend.runner.pool, []
    pool.grow(table, pool.pages)
    pool.release(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--random", choices=("fp32", "bf16"))
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each sample")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--cached", action="store_true")
    options = parser.parse_args()
    machine = detect()
    with tempfile.TemporaryDirectory() as folder:
        model = str(qwen3_shape.save(Path(folder), options.random)) if options.random else options.model
        backend = create(
            ModelSpec(model=model, threads=options.threads, context=options.prompt + options.tokens + PAGE),
            machine.profile,
            replace(machine.settings, threads=options.threads),
        )
    sampler = Sampler(options.temperature, 1.0, 0, seed=1)
    generator = torch.Generator().manual_seed(0)
    alone, together, totals = [], [], []
    alike = count = held = 0
    for run in range(options.runs + 1):
        ids = torch.randint(5, backend.shape.vocab, (options.prompt,), generator=generator).tolist()
        shape = (backend, ids, sampler, options.samples, options.tokens)
        texts, decoding, seconds, held = asyncio.run(forked(*shape))
        forget(backend)
        others, their_decoding, their_seconds = asyncio.run(sequential(*shape, options.cached))
        forget(backend)
        alike += sum(one == other for one, other in zip(texts, others, strict=True))
        count += len(texts)
        if run:  # the first warms up
            sampled = options.samples * options.tokens
            together.append(sampled / decoding)
            alone.append(sampled / their_decoding)
            totals.append(their_seconds / seconds)
    shared, own = options.prompt // PAGE, -(-(options.prompt % PAGE + options.tokens) // PAGE)
    apart = options.samples * (shared + own)
    print(f"pages      {held} held (shared {shared} + own {options.samples} x {own}); unshared {apart}")
    for name, values in (("one by one", alone), ("forked", together)):
        span = f"from {min(values):.1f} to {max(values):.1f}"
        print(f"{name:10s} {statistics.median(values):8.1f} tok/s  ({span})")
    ratio = statistics.median(together) / statistics.median(alone)
    print(f"decoding   {ratio:.2f}x   prompt included {statistics.median(totals):.2f}x")
    print(f"texts      {alike} of {count} alike   {backend.kernel_class}")
    backend.close()


if __name__ == "__main__":
    main()
