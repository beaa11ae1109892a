"""The folder of weights that were quantized as they were loaded, in a folder per model and way of quantizing.

Knows names, sizes and times, and loads no torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from engine.page_files import room

DEFAULT_BUDGET = 50 * 10**9
"""Bytes where none are stated, where that is at most a quarter of the free space."""
_LEFTOVER_S = 3600.0
"""A folder is written in far less: an older one without a name was left by a process that was killed."""
_NAMED = re.compile(r"[0-9a-f]{32}")
_UNNAMED = re.compile(r"\.[0-9a-f]{32}\.[0-9a-f]{16}")


@dataclass(frozen=True)
class QuantizedFolder:
    """Where quantized weights are kept, and how many bytes they may take."""

    path: Path
    budget: int | None = None
    """None: the default. 0: nothing is kept."""

    def limit(self) -> int:
        """The budget in bytes; the default counts the space that the weights themselves take as free."""
        if self.budget is not None:
            return self.budget
        return min(DEFAULT_BUDGET, room(self.path, sum(kept.bytes for kept in self.kept())) // 4)

    def model(self, key: str) -> Path:
        """The folder of the weights with this key, 32 hexadecimal digits; it may be missing."""
        return self.path / key

    def unnamed(self, key: str) -> Path:
        """Where to write them before they get their name."""
        return self.path / f".{key}.{os.urandom(8).hex()}"

    def kept(self) -> list[Kept]:
        """What lies there, the least recently used first; nothing where the folder is missing or closed."""
        return sorted((_kept(path) for path in self._folders(_NAMED)), key=lambda kept: kept.used_ns)

    def make_room(self, wanted: int) -> bool:
        """Remove the least recently used until so many bytes more fit into the budget; False: they never do.

        Removes what killed processes left, too.
        """
        for path in self._folders(_UNNAMED):
            if _kept(path).used_ns < time.time_ns() - int(_LEFTOVER_S * 1e9):
                shutil.rmtree(path, ignore_errors=True)
        limit, kept = self.limit(), self.kept()
        if wanted > limit:
            return False
        total = sum(one.bytes for one in kept)
        for one in kept:
            if total + wanted <= limit:
                break
            shutil.rmtree(one.path, ignore_errors=True)
            total -= one.bytes
        return True

    def _folders(self, name: re.Pattern[str]) -> list[Path]:
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        return []


@dataclass(frozen=True)
class Kept:
    """One model's quantized weights; `used_ns` since the epoch."""

    path: Path
    bytes: int
    used_ns: int


def mark_used(path: Path) -> None:
    """Note that weights were used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _kept(path: Path) -> Kept:
    size, used = 0, 0
    with contextlib.suppress(OSError), os.scandir(path) as files:
        used = path.stat().st_mtime_ns
        size = sum(file.stat(follow_symlinks=False).st_size for file in files)
    return Kept(path, size, used)
