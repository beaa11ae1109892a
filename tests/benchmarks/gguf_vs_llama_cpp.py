"""Logits from one GGUF file, here and in llama.cpp: python tests/benchmarks/gguf_vs_llama_cpp.py PYTHON.

PYTHON is an interpreter that has llama-cpp-python, which need not be this one. The bundled model is written
in every type that stays quantized here, and twice more quantized by llama.cpp itself (Q4_K_M, Q5_K_M); then a
random model of each family, unquantized. llama.cpp keeps keys and values in float32 here; for products with
BF16 or quantized matrices it rounds activations, mull does not, so that some difference remains.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "support"))
from gguf_files import ARCHITECTURES, write_gguf
from random_checkpoint import prompt, save_checkpoint

from engine.load.checkpoint import inspect
from engine.load.locate import locate
from engine.load.model import load_model
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message

TEXT = [
    Message("user", "What is 4748 + 2674?"),
    Message("assistant", "4748+2674=7422\n\n7422"),
    Message("user", "What is 12 + 7 - 4 + 15 - 9?"),
]
TYPES = ("F32", "BF16", "Q8_0", "Q5_0", "Q4_0", "Q6_K", "Q4_K")
SIX_LAYERS = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
SETTINGS: dict[str, dict[str, object]] = {
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True, "query_pre_attn_scalar": 64},
    "gemma3_text": {"tie_word_embeddings": True, "query_pre_attn_scalar": 64, **SIX_LAYERS},
    "qwen3_moe": {"norm_topk_prob": True, "moe_intermediate_size": 256},
}
MIXTURES = {"q4_0": 2, "q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17}
"""llama.cpp's numbers for what it makes of a whole model, as `LLAMA_FTYPE_MOSTLY_Q4_K_M`."""

EVALUATE = """
import json, sys
import numpy, llama_cpp
path, ids, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
model = llama_cpp.Llama(path, n_ctx=512, logits_all=True, type_k=0, type_v=0, n_threads=1, verbose=False)
model.eval(ids)
numpy.save(out, numpy.asarray(model.scores[: len(ids)], dtype=numpy.float32))
print(llama_cpp.__version__, json.dumps(model.tokenize(sys.argv[4].encode(), add_bos=False, special=True)))
"""
QUANTIZE = """
import sys
import llama_cpp
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype, settings.nthread = int(sys.argv[3]), 1
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), settings))
"""


def peer(python: str, code: str, *arguments: str) -> str:
    done = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{python} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def compare(python: str, path: Path, ids: list[int], text: str = "") -> str:
    """How far apart the logits are over all positions, and whether the text gives the same ids."""
    out = path.with_suffix(".npy")
    version, _, theirs_ids = peer(python, EVALUATE, str(path), json.dumps(ids), str(out), text).partition(" ")
    checkpoint = inspect(path)
    model = load_model(checkpoint, "fp32", "cpu", "eager", lambda *_: None)
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0].double()
    theirs = torch.from_numpy(np.load(out)).double()
    difference = (ours - theirs).abs().max().item()
    logs = [torch.log_softmax(logits, -1) for logits in (theirs, ours)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean().item()
    top = (ours.argmax(-1) == theirs.argmax(-1)).sum().item()
    parts = [
        f"{checkpoint.source.quantization or checkpoint.source.dtype}",
        f"largest difference {difference:.1e} of logits up to {theirs.abs().max():.0f}",
        f"KL {divergence:.1e}",
        f"{top} of {len(ids)} first choices alike",
    ]
    if text:
        parts.append(f"ids {'equal' if json.loads(theirs_ids) == ids else 'DIFFER'}")
    return f"{', '.join(parts)} (llama-cpp-python {version})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", metavar="PYTHON", help="an interpreter with llama-cpp-python")
    python: str = parser.parse_args().python
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny = locate("tiny")
        tokenizer = HubTokenizer(write_gguf(tiny, folder / "tiny-F32.gguf"))
        ids = tokenizer.render(TEXT)
        for kind in TYPES:
            path = write_gguf(tiny, folder / f"tiny-{kind}.gguf", kind)
            print(f"tiny {kind}: {compare(python, path, ids, tokenizer.decode(ids))}", flush=True)
        for kind, number in MIXTURES.items():
            path = folder / f"tiny-{kind}.gguf"
            peer(python, QUANTIZE, str(folder / "tiny-F32.gguf"), str(path), str(number))
            print(f"tiny {kind} by llama.cpp: {compare(python, path, ids)}", flush=True)
        for family in ARCHITECTURES:
            shape = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 2}
            random = save_checkpoint(folder / family, family, **{**shape, **SETTINGS.get(family, {})})
            # llama.cpp wants merges to be there, whatever they are
            path = write_gguf(random, folder / f"{family}.gguf", **{"tokenizer.ggml.merges": ["a b"]})
            print(f"random {family}: {compare(python, path, prompt(64))}", flush=True)


if __name__ == "__main__":
    main()
