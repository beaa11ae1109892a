"""What keys and values depend on besides the tokens, as a hash. Knows files, no tensors."""

from __future__ import annotations

from hashlib import blake2b

from engine.load.checkpoint import Checkpoint
from engine.runtime.pages import PAGE


def fingerprint(checkpoint: Checkpoint, dtype: str) -> bytes:
    """Names configuration, weight files (by name, size and time of change), dtype and page size."""
    files = sorted(checkpoint.folder.glob("*.safetensors"))
    parts = [
        checkpoint.config.to_json_string(),
        *(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files),
        f"{dtype} {PAGE}",
    ]
    return blake2b("\n".join(parts).encode(), digest_size=32).digest()
