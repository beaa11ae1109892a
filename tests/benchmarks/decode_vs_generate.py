"""Decoding against transformers' `generate`: python tests/benchmarks/decode_vs_generate.py MODEL|--random T.

Greedy, batch 1, no speculation, one process, alternating runs of the same prompt; both must write the same
ids, in the arithmetic that mull chooses on this machine. With `--random bf16` the checkpoint has
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
from transformers import AutoModelForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "support"))
import qwen3_shape

from engine.backend import Lease, Sampler
from engine.load.locate import locate
from engine.protocol import ModelSpec
from engine.runtime.create import create
from profiles.detect import detect

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--random", choices=qwen3_shape.DTYPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=32, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()

    machine = detect()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if arguments.random:
            model = str(qwen3_shape.save(Path(folder), arguments.random))
        backend = create(
            ModelSpec(
                model=model,
                threads=arguments.threads,
                context=arguments.context + arguments.tokens + 64,
                draft="off",
            ),
            machine.profile,
            replace(machine.settings, threads=arguments.threads),
        )
        dtype = {"fp32": "float32", "bf16": "bfloat16"}[backend.info.dtype]
        stock = AutoModelForCausalLM.from_pretrained(locate(model), dtype=getattr(torch, dtype)).eval()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(5, backend.shape.vocab, (arguments.context,), generator=generator).tolist()

    def generate(tokens: int) -> tuple[float, list[int]]:
        begin = time.perf_counter()
        out = stock.generate(
            torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=None
        )
        return time.perf_counter() - begin, out[0, len(prompt) :].tolist()

    def theirs() -> tuple[float, list[int]]:
        first, _ = generate(1)
        seconds, ids = generate(arguments.tokens)
        return (arguments.tokens - 1) / (seconds - first), ids

    async def ours() -> tuple[float, list[int]]:
        node = await backend.prefill(prompt, Lease(0))
        try:
            await backend.extend(node, "answer", Lease(1), GREEDY)
            begin = time.perf_counter()
            await backend.extend(
                node, "answer", Lease(arguments.tokens - 1), GREEDY, on_tokens=lambda _: None
            )
            seconds = time.perf_counter() - begin
            return (arguments.tokens - 1) / seconds, node.ids[len(prompt) :]
        finally:
            await backend.cancel(node)

    rates: dict[str, list[float]] = {"generate": [], "mull": []}
    equal = True
    for run in range(arguments.runs + 1):
        rate, expected = theirs()
        own_rate, ids = asyncio.run(ours())
        equal &= ids == expected
        if run:  # the first warms up
            rates["generate"].append(rate)
            rates["mull"].append(own_rate)
    for name, values in rates.items():
        print(
            f"{name:9s} {statistics.median(values):8.1f} tok/s  (from {min(values):.1f} to {max(values):.1f})"
        )
    ratio = statistics.median(rates["mull"]) / statistics.median(rates["generate"])
    print(f"ratio     {ratio:8.2f}   ids {'equal' if equal else 'DIFFER'}   {backend.kernel_class}")
    backend.close()


if __name__ == "__main__":
    main()
