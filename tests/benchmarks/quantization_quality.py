"""How near quantized models come to the original: python tests/benchmarks/quantization_quality.py PYTHON.

Mean KL divergence over the original's greedy texts on held-out problems, of `--quant int8` and `int4`, of
GPTQ checkpoints made here, and of the same model quantized by llama.cpp itself to q8_0 and q4_0, read from
its files. PYTHON is an interpreter that has llama-cpp-python, which need not be this one. Differences are
paired by text.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader

sys.path.append(str(Path(__file__).parents[1] / "support"))
from gguf_files import write_gguf
from gguf_vs_llama_cpp import MIXTURES, QUANTIZE, peer

from engine.load.checkpoint import Checkpoint, inspect
from engine.load.choose import quantize_by, weight_memory
from engine.load.plan import KINDS, QuantPlan
from engine.load.source import plain_values
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message
from engine.protocol.quantize import Making
from engine.quantize import quality
from engine.quantize.gptq import make_gptq
from engine.quantize.matrices import BYTES, own_bytes, plain_checkpoint
from engine.quantize.models import load
from engine.quantize.quality import Divergence
from engine.quantize.texts import write_greedily
from engine.tasks.registry import sample_any

AT_ONCE = 256


def by_llama_cpp(python: str, unquantized: Path, kind: str) -> tuple[Any, float]:
    """The model as llama.cpp quantizes it, and the bytes of its tensors."""
    path = unquantized.with_name(f"{kind}.gguf")
    peer(python, QUANTIZE, str(unquantized), str(path), str(MIXTURES[kind]))
    return load(inspect(path), "cpu", lambda _: None, "fp32"), sum(
        int(tensor.n_bytes) for tensor in GGUFReader(path).tensors
    )


def ours(checkpoint: Checkpoint, name: str) -> tuple[Any, float]:
    """The model as `--quant` loads it, and its bytes."""
    plan = QuantPlan(KINDS[name], tied=bool(checkpoint.config.tie_word_embeddings))
    model = load(checkpoint, "cpu", lambda _: None, "fp32", quantize_by(plan))
    return model, weight_memory(checkpoint.source, plan, BYTES[checkpoint.source.dtype])


def gptq(checkpoint: Checkpoint, group: int) -> tuple[Any, float]:
    """A GPTQ checkpoint of 4 bits, calibrated on what the model writes, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gptq"
        make_gptq(checkpoint, Making(to="gptq", out=str(out), group=group), "cpu", lambda _: None)
        made = inspect(out)
        return load(made, "cpu", lambda _: None, "fp32"), own_bytes(made)


def distinct_questions(count: int) -> list[str]:
    """Held-out problems of all families by their weights; some have too few for as many of each."""
    rng, found = random.Random(quality.SEED), dict[str, None]()
    while len(found) < count:
        found.setdefault(sample_any(rng, "test").question)
    return list(found)


def paired(one: Sequence[Divergence], other: Sequence[Divergence]) -> dict[str, float]:
    """The mean difference per token and its standard error."""
    gap = quality.mean(one, [a.nats - b.nats for a, b in zip(one, other, strict=True)])
    return {"difference": gap.value, "error": gap.error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("python", metavar="PYTHON", help="an interpreter with llama-cpp-python")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--problems", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15, help="no further problems after that")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    checkpoint = plain_checkpoint(options.model)
    tokenizer = HubTokenizer(checkpoint.folder)
    original = load(checkpoint, "cpu", lambda _: None, "fp32")
    with tempfile.TemporaryDirectory() as folder:
        unquantized = write_gguf(checkpoint.folder, Path(folder) / "f32.gguf")
        models = {
            "int8": ours(checkpoint, "int8"),
            "q8_0": by_llama_cpp(options.python, unquantized, "q8_0"),
            "int4": ours(checkpoint, "int4"),
            "q4_0": by_llama_cpp(options.python, unquantized, "q4_0"),
            "gptq g32": gptq(checkpoint, 32),
            "gptq g128": gptq(checkpoint, 128),
        }
    questions = distinct_questions(options.problems)
    prompts = [tokenizer.render([Message("user", text)], enable_thinking=True) for text in questions]
    found: list[list[Divergence]] = [[] for _ in models]
    done = 0
    while done < len(prompts) and time.monotonic() - start < 60 * options.minutes:
        asked = prompts[done : done + AT_ONCE]
        texts = write_greedily(original, asked, tokenizer.eos_ids, quality.MOST_TOKENS, lambda _: None)
        parts = quality.divergences(original, [model for model, _ in models.values()], texts, lambda _: None)
        for of_model, part in zip(found, parts, strict=True):
            of_model += part
        done += len(asked)
    by_name = dict(zip(models, found, strict=True))
    count = plain_values(checkpoint.source)
    rows = {}
    for name, of_model in by_name.items():
        kl = quality.mean(of_model, [each.nats for each in of_model])
        tokens = sum(each.tokens for each in of_model)
        rows[name] = {
            "bytes_per_weight": round(models[name][1] / count, 4),
            "kl": kl.value,
            "kl_error": kl.error,
            "agreement": sum(each.agreed for each in of_model) / tokens,
        }
        assert math.isfinite(kl.value)
    report = {
        "problems": done,
        "tokens": sum(each.tokens for each in found[0]),
        "rows": rows,
        "int8 - q8_0": paired(by_name["int8"], by_name["q8_0"]),
        "int4 - q4_0": paired(by_name["int4"], by_name["q4_0"]),
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
