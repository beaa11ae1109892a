"""Which file this is, without reading all of it. Knows no tensors."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

SAMPLES = 16
"""Places of a weight file that are looked at: training again changes them all, whatever the file's date."""
SAMPLE_BYTES = 4096


def identity(file: Path) -> str:
    """Its name, size, time of change and some of its bytes. Raises OSError."""
    found = file.stat()
    return f"{file.name} {found.st_size} {found.st_mtime_ns} {_sampled(file, found.st_size)}"


def contents(files: Iterable[Path]) -> str:
    """A digest of files' sizes and some of their bytes: a copy has the same. Raises OSError."""
    found = ((file, file.stat().st_size) for file in files)
    parts = sorted(f"{size} {_sampled(file, size)}" for file, size in found)
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _sampled(file: Path, size: int) -> str:
    seen = blake2b(digest_size=16)
    with file.open("rb") as handle:
        for number in range(SAMPLES):
            handle.seek(number * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
            seen.update(handle.read(SAMPLE_BYTES))
    return seen.hexdigest()
