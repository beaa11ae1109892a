"""The folder of the prompt store: which files in it are pages, how many bytes they take, which go first.

Knows names, sizes and times, not what a page contains, and loads no torch. Processes share the folder, so any
file may be gone by the time it is looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_BUDGET = 4 * 10**9
"""Bytes of a store that was given no budget, where that is at most a tenth of the free space."""
LEFTOVER_S = 60.0
"""A file is written in far less: an older one that has no name yet was left by a process that was killed."""

_MODEL = re.compile(r"[0-9a-f]{32}")
_PAGE = re.compile(r"[0-9a-f]{64}\.safetensors")
_UNNAMED = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{16}")


@dataclass(frozen=True)
class PageFolder:
    """Where prompts are kept, in a folder per model, and how many bytes they may take."""

    path: Path
    budget: int | None = None
    """None: the default. 0: nothing is kept."""

    def limit(self) -> int:
        """The budget in bytes; the default counts the space that the pages themselves take as free."""
        if self.budget is not None:
            return self.budget
        return min(DEFAULT_BUDGET, room(self.path, held(self.path).bytes) // 10)


@dataclass(frozen=True)
class Entry:
    """A file that is named like a page."""

    path: Path
    bytes: int
    used_ns: int


@dataclass(frozen=True)
class Held:
    """What lies in the folder."""

    pages: tuple[Entry, ...]
    unnamed: tuple[Entry, ...]
    """Under way, or left by a process that was killed."""
    strangers: tuple[Path, ...]
    """Not the store's: never read, never removed."""

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.pages)


def room(folder: Path, taken: int) -> int:
    """Bytes on a folder's disk that are free, or that it takes itself; it may be missing."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free + taken


def page_file(folder: Path, fingerprint: bytes, digest: bytes) -> Path:
    """The file of the page that is found under `digest`, of the model with this fingerprint."""
    return folder / fingerprint.hex()[:32] / f"{digest.hex()}.safetensors"


def unnamed(path: Path) -> Path:
    """Where to write a page before it gets its name."""
    return path.with_name(f".{path.stem}.{os.urandom(8).hex()}")


def make_private(folder: Path) -> None:
    """Have the folder, for its user alone (0700). Raises OSError, PermissionError where it is another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def held(folder: Path) -> Held:
    """What lies in the folder; nothing where it is missing or closed."""
    pages: list[Entry] = []
    begun: list[Entry] = []
    strangers: list[Path] = []
    for model in _scanned(folder):
        if not (_MODEL.fullmatch(model.name) and model.is_dir(follow_symlinks=False)):
            strangers.append(Path(model.path))
            continue
        for file in _scanned(Path(model.path)):
            named = _PAGE.fullmatch(file.name)
            if not (named or _UNNAMED.fullmatch(file.name)):
                strangers.append(Path(file.path))
                continue
            with contextlib.suppress(OSError):
                found = file.stat(follow_symlinks=False)
                (pages if named else begun).append(Entry(Path(file.path), found.st_size, found.st_mtime_ns))
    return Held(tuple(pages), tuple(begun), tuple(strangers))


def trim(folder: Path, budget: int) -> int:
    """Remove the least recently used pages until the rest takes at most `budget` bytes; returns these.

    Removes what killed processes left, too.
    """
    found = held(folder)
    long_ago = time.time_ns() - int(LEFTOVER_S * 1e9)
    for entry in found.unnamed:
        if entry.used_ns < long_ago:
            remove(entry.path)
    total = found.bytes
    for entry in sorted(found.pages, key=lambda entry: entry.used_ns):
        if total <= budget:
            break
        remove(entry.path)
        total -= entry.bytes
    return total


def remove(path: Path) -> None:
    """Remove a file, and its folder with the last one; nothing happens where it is gone or closed."""
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()


def mark_used(path: Path, used_ns: int) -> bool:
    """Note when a page was used last, in ns since the epoch; False where there is no such file."""
    try:
        os.utime(path, ns=(used_ns, used_ns), follow_symlinks=False)
    except OSError:
        return False
    return True


def _scanned(folder: Path) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from entries
