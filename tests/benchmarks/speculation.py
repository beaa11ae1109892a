"""Decoding with and without guesses: python tests/benchmarks/speculation.py [--draft exit:N|small].

The model has Qwen3-0.6B's shape with a vocabulary of 32,000, and says what a script says: eight ids again and
again, or ids that never come back. Runs with and without guesses alternate and must write the same ids. A
`small` draft model has 4 layers of half the width and follows the same script.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))
import qwen3_shape
import scripted_checkpoint
from random_checkpoint import save_tokenizer

from engine.backend import Lease, Sampler
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from profiles.detect import detect

CYCLE = 8
FIRST = 300
"""Ids below are special ones and bytes."""
SMALL = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8}


def script(vocabulary: int) -> dict[int, int]:
    """What follows each id: the first eight go round, the others are one long cycle in random order."""
    rest = list(range(FIRST + CYCLE, vocabulary))
    random.Random(0).shuffle(rest)
    after = dict(zip(rest, [*rest[1:], rest[0]], strict=True))
    return after | {FIRST + at: FIRST + (at + 1) % CYCLE for at in range(CYCLE)}


def write(folder: Path, **changes: object) -> Path:
    """A checkpoint that follows the script."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    save_tokenizer(tokenizer)
    config = {**qwen3_shape.CONFIG, **changes}
    vocabulary = config.pop("vocab_size")
    del config["tie_word_embeddings"]
    return scripted_checkpoint.write(
        folder / "model", tokenizer, script(vocabulary), vocabulary, max_position_embeddings=8192, **config
    )


async def rate(
    backend: LocalBackend, prompt: list[int], tokens: int, samples: int, guess: bool
) -> tuple[float, list[int], int, int]:
    """Tokens per second of decoding, the ids of one sample, and guesses taken and rejected of all."""
    root = await backend.prefill(prompt, Lease(0))
    nodes = await backend.fork(root, samples)
    sampler = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
    for node in nodes:
        await backend.extend(node, "answer", Lease(1), sampler)
    began = time.perf_counter()
    await asyncio.gather(
        *[backend.extend(node, "answer", Lease(tokens), sampler, guess=guess) for node in nodes]
    )
    seconds = time.perf_counter() - began
    for node in (root, *nodes):
        await backend.cancel(node)
    accepted = sum(node.account.drafts_accepted for node in nodes)
    rejected = sum(node.account.drafts_rejected for node in nodes)
    return samples * tokens / seconds, nodes[0].ids, accepted, rejected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draft", metavar="exit:N|small", help="Beside what the text repeats.")
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--tokens", type=int, default=128, help="tokens to decode")
    parser.add_argument("--samples", type=int, default=1, help="sequences that decode together")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    machine = detect()
    with tempfile.TemporaryDirectory() as folder:
        model = write(Path(folder) / "large")
        small = str(write(Path(folder) / "small", **SMALL)) if options.draft == "small" else options.draft
        spec = ModelSpec(model=str(model), threads=options.threads, context=1024, draft=small)
        backend = create(spec, machine.profile, replace(machine.settings, threads=options.threads))
    after = script(backend.shape.vocab)
    print(f"{backend.kernel_class}, {options.threads} threads, {options.samples} at once")
    for name, first in (("repetitive", FIRST), ("random", FIRST + CYCLE)):
        prompt = [first]
        while len(prompt) < options.prompt:
            prompt.append(after[prompt[-1]])
        plain, guessed = [], []
        equal, accepted, rejected = True, 0, 0
        for run in range(options.runs + 1):
            work = (backend, prompt, options.tokens, options.samples)
            before, expected, *_ = asyncio.run(rate(*work, guess=False))
            found, ids, taken, lost = asyncio.run(rate(*work, guess=True))
            equal &= ids == expected
            if run:  # the first warms up
                plain.append(before)
                guessed.append(found)
                accepted, rejected = accepted + taken, rejected + lost
        for way, values in (("plain", plain), ("guessing", guessed)):
            span = f"from {min(values):.1f} to {max(values):.1f}"
            print(f"{name:10s} {way:8s} {statistics.median(values):8.1f} tok/s  ({span})")
        ratio = statistics.median(guessed) / statistics.median(plain)
        pairs = statistics.median(two / one for one, two in zip(plain, guessed, strict=True))
        print(
            f"{name:10s} {ratio:.2f}x (median of pairs {pairs:.2f}x)   ids {'equal' if equal else 'DIFFER'}"
            f"   guesses {accepted} right, {rejected} wrong"
        )
    backend.close()


if __name__ == "__main__":
    main()
