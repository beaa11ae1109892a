"""Seconds to a first token, prompt cold, cached or on disk: tests/benchmarks/prefix_cache.py [--random bf16].

The runs of one length alternate; each cold one has a prompt of its own. Before the prompt is taken from disk,
memory forgets it and the system drops its files. With `--random` the model has Qwen3-0.6B's shape, random
weights and a vocabulary of 32,000.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "support"))
import qwen3_shape

from engine.backend import Lease, Sampler
from engine.page_files import PageFolder, held
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from profiles.detect import Detection, detect

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)


async def first_token(backend: LocalBackend, ids: list[int]) -> tuple[float, int]:
    """Seconds from the prompt to its first token, and how many of its tokens were cached."""
    began = time.perf_counter()
    node = await backend.prefill(ids, Lease(0))
    await backend.extend(node, "answer", Lease(1), GREEDY)
    seconds = time.perf_counter() - began
    await backend.cancel(node)
    return seconds, node.account.cached


async def forget(backend: LocalBackend, prompts: Path, pages: int) -> None:
    """Leave so many pages on disk alone: neither in the engine's memory nor in the system's."""
    for _ in range(10_000):
        if len(held(prompts).pages) >= pages:
            break
        await asyncio.sleep(0.01)
    pool = backend.runner.pool
    await backend._call(lambda: pool.forget(range(pool.pages)))
    for page in held(prompts).pages:
        descriptor = os.open(page.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--random", choices=("fp32", "bf16"))
    parser.add_argument("--prompt", type=int, default=2000, help="tokens")
    parser.add_argument("--new", type=int, default=16, help="tokens at its end that are not cached")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    machine = detect()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as prompts:
        measure(options, machine, Path(folder), Path(prompts))


def measure(options: argparse.Namespace, machine: Detection, folder: Path, prompts: Path) -> None:
    backend = create(
        ModelSpec(
            model=str(qwen3_shape.save(folder, options.random)) if options.random else options.model,
            threads=options.threads,
            context=options.prompt + 64,
        ),
        machine.profile,
        replace(machine.settings, threads=options.threads),
        prompts=PageFolder(prompts, 10**12),
    )
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(5, backend.shape.vocab, (count,), generator=generator).tolist()

    seconds: dict[str, list[float]] = {"cold": [], "cached": [], "disk": []}
    kept = 0
    for run in range(options.runs + 1):
        ids = tokens(options.prompt)
        cold, none = asyncio.run(first_token(backend, ids))
        cached, found = asyncio.run(first_token(backend, [*ids[: -options.new], *tokens(options.new)]))
        assert none < 8 and found == options.prompt - options.new
        kept += options.prompt // PAGE
        asyncio.run(forget(backend, prompts, kept))
        disk, found = asyncio.run(first_token(backend, [*ids[: -options.new], *tokens(options.new)]))
        assert found == (options.prompt - options.new) // PAGE * PAGE
        if run:  # the first warms up
            for values, value in zip(seconds.values(), (cold, cached, disk), strict=True):
                values.append(value)
    for name, values in seconds.items():
        middle, share = (
            statistics.median(values),
            statistics.median(values) / statistics.median(seconds["cold"]),
        )
        print(f"{name:6s} {middle:8.4f} s  (from {min(values):.4f} to {max(values):.4f})  {share:8.2%}")
    print(backend.kernel_class)
    backend.close()


if __name__ == "__main__":
    main()
