"""The prompt store: pages of prompts on disk, so that a restarted engine does not compute them again.

Nothing here makes an answer wait: pages are copied out one at a time when the engine's thread has nothing to
do, and written by a thread of their own; files are read and verified before the engine's thread is asked.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.page_files import PageFolder, make_private, mark_used, page_file, remove, trim
from engine.runtime.page_format import PageFormat, Unsound
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.prefixes import Prefix, digests

AT_ONCE_BYTES = 64 * 2**20
"""Contents of pages that are in memory on their way to or from the disk."""
WAITING = 4096
"""Pages that wait to be copied out, at most: of an engine that is never idle the last ones."""
SLACK = 32
"""This part of the budget is made free when it is used up: not every page needs a look at the folder."""
FLUSH_S = 2.0
"""Seconds that an engine that leaves takes at most to write what waits."""

log = logging.getLogger("mull.prompts")


@dataclass(frozen=True)
class Restored:
    """Pages that were read and verified: the contents of the last full pages of `ids`."""

    ids: tuple[int, ...]
    pages: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class _Offered:
    """A page that may be written; it ends after `tokens` of the `prompt`."""

    prompt: np.ndarray
    tokens: int
    prefix: Prefix
    path: Path
    used_ns: int

    @property
    def ids(self) -> np.ndarray:
        return self.prompt[: self.tokens]


class PromptStore:
    """Keeps one model's prompts. `read` and `ignored` are for any thread, the rest for the engine's.

    A page's file is named by the hash that stands for its tokens and all before them. The folder is the
    index: what other engines write there is found, and what they remove is computed again.
    """

    def __init__(self, folder: PageFolder, fingerprint: bytes, pool: PagePool) -> None:
        self.folder = folder.path
        self.budget = folder.limit()
        self.on_room: Callable[[], None] = lambda: None
        """Called on the writing thread when `idle_work`, which had to stop, can go on."""
        self._pool = pool
        self._fingerprint = fingerprint
        self._format = PageFormat(fingerprint, pool.page_shape, pool.dtype)
        self._at_once = max(1, AT_ONCE_BYTES // pool.page_bytes)
        self._offered: deque[_Offered] = deque(maxlen=WAITING)
        self._writes: queue.Queue[tuple[_Offered, torch.Tensor] | None] = queue.Queue(self._at_once)
        self._given_up = False
        self._ignored: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._writer = threading.Thread(target=self._write_all, name="prompts", daemon=True)
        self._writer.start()

    def read(self, ids: Sequence[int]) -> Restored | None:
        """Pages of `ids` that follow those in memory, as many as are to be in memory at once on their way.

        None where the next one is not there. All tokens from the beginning on are compared. A file that is
        not what it should be is counted and removed, one that cannot be read is counted.
        """
        prompt, paths = np.asarray(ids, np.int32), self._paths(ids)
        first = len(self._pool.known(ids))
        pages: list[torch.Tensor] = []
        for number, path in enumerate(paths[first : first + self._at_once], first + 1):
            try:
                pages.append(self._format.read(path, prompt[: number * PAGE]))
            except FileNotFoundError:
                break
            except OSError as error:  # it may pass, and the page is no worse for it
                self._ignore(path, f"cannot be read: {error.strerror}")
                break
            except Unsound as error:
                self._ignore(path, str(error))
                remove(path)
                break
        if not pages:
            return None
        return Restored(tuple(ids[: (first + len(pages)) * PAGE]), tuple(pages))

    def _ignore(self, path: Path, reason: str) -> None:
        self._count(reason)
        log.warning("%s was ignored: %s", path, reason)

    def ignored(self) -> dict[str, int]:
        """How many files were not used, or not written, by reason."""
        with self._counting:
            return dict(self._ignored)

    def restore(self, found: Restored) -> int:
        """Put pages back into memory; how many tokens more can be found now. None where others need it."""
        return self._pool.restore(found.ids, found.pages)

    def offer(self, ids: Sequence[int]) -> None:
        """Have the full pages of a prompt kept, those that the pool can find now. Copies nothing yet."""
        prompt, now = np.asarray(ids, np.int32), time.time_ns()
        pairs = zip(self._pool.known(ids), self._paths(ids), strict=False)
        for number, (prefix, path) in enumerate(pairs):
            used_ns = now - number * 1_000_000  # so that a page goes before the one that it follows
            self._offered.append(_Offered(prompt, (number + 1) * PAGE, prefix, path, used_ns))

    def idle_work(self) -> bool:
        """Copy out one page that is not on disk; False where there is none, or no room: see `on_room`."""
        while self._offered and not self._writes.full():
            page = self._offered.popleft()
            if mark_used(page.path, page.used_ns):
                continue
            contents = self._pool.contents(page.prefix)
            if contents is not None:  # else its memory was needed
                self._writes.put_nowait((page, contents))
                return True
        return False

    def close(self, seconds: float = FLUSH_S) -> None:
        """Write what waits, as far as that can be done in so many seconds."""
        deadline = time.monotonic() + seconds
        self.on_room = lambda: None
        while self._offered and time.monotonic() < deadline:
            if not self.idle_work() and self._offered:
                time.sleep(0.005)
        try:
            self._writes.put(None, timeout=max(0.0, deadline - time.monotonic()))
        except queue.Full:
            pass
        self._writer.join(max(0.0, deadline - time.monotonic()))
        self._given_up = True

    def _paths(self, ids: Sequence[int]) -> list[Path]:
        """Where the full pages of `ids` are, or would be."""
        found = digests(self._fingerprint, ids)
        return [page_file(self.folder, self._fingerprint, digest) for digest in found]

    def _write_all(self) -> None:
        """The writing thread: everything that is handed to it, within the budget."""
        taken = trim(self.folder, self.budget)
        while (item := self._writes.get()) is not None and not self._given_up:
            page, contents = item
            ids = page.ids
            size = self._format.file_bytes(ids)
            if size <= self.budget:
                if taken + size > self.budget:
                    taken = trim(self.folder, self.budget - size - self.budget // SLACK)
                try:
                    self._format.write(page.path, ids, contents)
                    mark_used(page.path, page.used_ns)
                    taken += size
                except OSError as error:
                    reason = f"cannot be written: {error.strerror}"
                    if self._count(reason) == 1:  # a full disk need not fill the log, too
                        log.warning("%s %s", page.path, reason)
            if self._writes.empty():
                taken = trim(self.folder, self.budget)  # other engines write here, too
            if self._offered:
                self.on_room()

    def _count(self, reason: str) -> int:
        with self._counting:
            self._ignored[reason] += 1
            return self._ignored[reason]


def open_store(folder: PageFolder, fingerprint: bytes, pool: PagePool) -> PromptStore | None:
    """The store in this folder; None where it is switched off, and then emptied, or cannot be used."""
    if folder.budget == 0:
        trim(folder.path, 0)
        return None
    try:
        make_private(folder.path)
        return PromptStore(folder, fingerprint, pool)
    except OSError as error:
        log.warning("prompts are not kept on disk: %s", error)
        return None
