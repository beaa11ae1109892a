"""Decoding against transformers' `generate`: python tests/benchmarks/decode_vs_generate.py MODEL.

Greedy, batch 1, one process, alternating runs of the same prompt; both must write the same ids.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM

from engine.backend import Lease, Sampler
from engine.load.locate import locate
from engine.protocol import ModelSpec
from engine.runtime.create import create
from profiles.detect import detect

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=32, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to decode")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()

    machine = detect()
    backend = create(
        ModelSpec(model=arguments.model, threads=arguments.threads),
        machine.profile,
        replace(machine.settings, threads=arguments.threads),
    )
    stock = AutoModelForCausalLM.from_pretrained(
        locate(arguments.model),
        dtype=getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[backend.info.dtype]),
    ).eval()
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
