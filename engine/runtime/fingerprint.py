"""What keys and values depend on besides the tokens, as a hash. Knows files, no tensors."""

from __future__ import annotations

from hashlib import blake2b
from importlib.metadata import version

from engine.build import mull_version
from engine.load.checkpoint import Checkpoint
from engine.load.identity import identity
from engine.load.plan import QuantPlan, way
from engine.runtime.pages import PAGE


def fingerprint(checkpoint: Checkpoint, plan: QuantPlan, kernel_class: str) -> bytes:
    """Names the configuration (so the rotary embedding, too), the weights, what computes, and the page size.

    It holds across restarts. `kernel_class` names the arithmetic, dtype and packing included: where it is
    equal the same model, quantized by the same plan, gives the same bits. The weights are named by their
    files' names, sizes, times of change and some of their bytes.
    """
    parts = [
        checkpoint.config.to_json_string(),
        *(identity(file) for file in checkpoint.source.files),
        way(plan) if plan else "as in the files",
        f"{kernel_class} {PAGE}",
        f"mull {mull_version()} torch {version('torch')} transformers {version('transformers')}",
    ]
    return blake2b("\n".join(parts).encode(), digest_size=32).digest()
