"""Seconds to a first token, prompt cold and cached: python tests/benchmarks/prefix_cache.py [--random bf16].

Cold and cached runs of one length alternate; each cold one has a prompt of its own. With `--random` the model
has Qwen3-0.6B's shape, random weights and a vocabulary of 32,000.
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

from engine.backend import Lease, Sampler
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from profiles.detect import detect

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)


async def first_token(backend: LocalBackend, ids: list[int]) -> tuple[float, int]:
    """Seconds from the prompt to its first token, and how many of its tokens were cached."""
    began = time.perf_counter()
    node = await backend.prefill(ids, Lease(0))
    await backend.extend(node, "answer", Lease(1), GREEDY)
    seconds = time.perf_counter() - began
    await backend.cancel(node)
    return seconds, node.account.cached


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
    with tempfile.TemporaryDirectory() as folder:
        model = str(qwen3_shape.save(Path(folder), options.random)) if options.random else options.model
        backend = create(
            ModelSpec(model=model, threads=options.threads, context=options.prompt + 64),
            machine.profile,
            replace(machine.settings, threads=options.threads),
        )
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(5, backend.shape.vocab, (count,), generator=generator).tolist()

    cold, cached = [], []
    for run in range(options.runs + 1):
        ids = tokens(options.prompt)
        seconds, none = asyncio.run(first_token(backend, ids))
        again, found = asyncio.run(first_token(backend, [*ids[: -options.new], *tokens(options.new)]))
        assert none < 8 and found == options.prompt - options.new
        if run:  # the first warms up
            cold.append(seconds)
            cached.append(again)
    for name, values in (("cold", cold), ("cached", cached)):
        print(f"{name:6s} {statistics.median(values):8.4f} s  (from {min(values):.4f} to {max(values):.4f})")
    print(f"ratio  {statistics.median(cached) / statistics.median(cold):8.2%}   {backend.kernel_class}")
    backend.close()


if __name__ == "__main__":
    main()
