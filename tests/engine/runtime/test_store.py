"""Prompts survive on disk; what is found there is used only where it is whole and for just these tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from marked_pages import begun, holds_its_own, said
from safetensors import safe_open

from engine import page_files
from engine.page_files import PageFolder, held, trim
from engine.runtime import pages, prefixes, store
from engine.runtime.page_format import PageFormat
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.store import PromptStore, open_store

MODEL = b"a" * 32
TEXT = list(range(1000, 1000 + 4 * PAGE + 20))
FULL = 4
"""Full pages of TEXT."""
PLENTY = 10**9


def small_pool() -> PagePool:
    return PagePool(1, 1, 2, 12, torch.float32, "cpu")


def large_pool() -> PagePool:
    """A page takes half a megabyte."""
    return PagePool(4, 4, 64, 12, torch.float32, "cpu")


class Engine:
    """An engine as far as its prompts are concerned: a pool, and a store in the folder that all share."""

    def __init__(self, folder: Path, budget: int, pool: PagePool, fingerprint: bytes) -> None:
        self.pool = pool
        opened = open_store(PageFolder(folder, budget), fingerprint, pool)
        assert opened is not None
        self.store: PromptStore = opened

    def answer(self, ids: list[int]) -> int:
        """Go through a prompt, taking what there is; how many tokens came from the disk."""
        restored = 0
        while found := self.store.read(ids):
            tokens = self.pool.restore(found.ids, found.pages)
            assert tokens == len(found.pages) * PAGE, "nothing is read that is there"
            restored += tokens
        sequence = begun(self.pool, [*ids, 1])
        assert holds_its_own(sequence) and sequence.account.cached >= restored
        sequence.release()
        self.pool.check_integrity([])
        self.store.offer(ids)
        return restored


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Engine]]:
    """Start an engine on the folder."""
    started: list[Engine] = []

    def make(budget: int = PLENTY, pool: PagePool | None = None, fingerprint: bytes = MODEL) -> Engine:
        started.append(Engine(folder, budget, pool or small_pool(), fingerprint))
        return started[-1]

    yield make
    for engine in started:
        engine.store.close()


def files_of(ids: list[int], folder: Path, fingerprint: bytes = MODEL) -> list[Path]:
    """The files of a prompt's pages, the first page's first."""
    found = prefixes.digests(fingerprint, ids)
    return [page_files.page_file(folder, fingerprint, digest) for digest in found]


@pytest.fixture
def files(folder: Path, start: Callable[..., Engine]) -> list[Path]:
    """The files of TEXT, written by an engine that has left."""
    engine = start()
    engine.answer(TEXT)
    engine.store.close()
    return files_of(TEXT, folder)


def test_a_prompt_is_found_again_after_a_restart(files: list[Path], start: Callable[..., Engine]) -> None:
    assert len(files) == FULL and all(file.exists() for file in files)
    engine = start()
    assert engine.answer([*TEXT, 5, 6]) == FULL * PAGE
    assert engine.answer([*TEXT, 7]) == 0, "it is in memory now"


def test_what_begins_alike_is_found_up_to_where_it_parts(
    files: list[Path], start: Callable[..., Engine]
) -> None:
    assert start().answer([*TEXT[: 2 * PAGE + 9], *TEXT]) == 2 * PAGE
    assert start().answer([9, *TEXT]) == 0


def test_only_what_memory_lacks_is_read(files: list[Path], start: Callable[..., Engine]) -> None:
    engine = start()
    said(engine.pool, [*TEXT[: 2 * PAGE], 1])
    files[0].write_bytes(b"would be noticed")
    assert engine.answer(TEXT) == 2 * PAGE
    assert engine.store.ignored() == {}


def test_long_prompts_come_back_in_parts(
    files: list[Path], start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start()
    monkeypatch.setattr(engine.store, "_at_once", 3)
    first = engine.store.read(TEXT)
    assert first is not None and len(first.pages) == 3
    assert engine.answer(TEXT) == FULL * PAGE


def test_pages_are_safetensors_for_this_user_alone(files: list[Path], folder: Path) -> None:
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["format"] == "mull.page/1"
            assert opened.get_tensor("page").shape == small_pool().page_shape
        assert file.stat().st_mode & 0o777 == 0o600
    assert {at.stat().st_mode & 0o777 for at in (folder, files[0].parent)} == {0o700}


def test_a_folder_that_was_open_to_others_is_closed(folder: Path, start: Callable[..., Engine]) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    start()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["length", "model", "tokens", "checksum", "data", "last"])
def test_a_flipped_bit_anywhere_in_a_file_is_noticed(
    files: list[Path], start: Callable[..., Engine], place: str
) -> None:
    content = bytearray(files[2].read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    at = {
        "length": 0,
        "model": content.index(MODEL.hex().encode()) + 40,
        "tokens": content.index(b'"tokens":"') + 10 + 8 * PAGE,
        "checksum": content.index(b'"crc32":"') + 9,
        "data": begin + 100,
        "last": len(content) - 1,
    }[place]
    content[at] ^= 1
    files[2].write_bytes(content)
    engine = start()
    assert engine.answer(TEXT) == 2 * PAGE
    assert sum(engine.store.ignored().values()) == 1
    assert ("damaged: its checksum differs" in engine.store.ignored()) == (
        place in ("checksum", "data", "last")
    )
    engine.store.close()
    assert start().answer(TEXT) == FULL * PAGE, "it was written anew"


@pytest.mark.parametrize(
    "state", ["short", "empty", "long", "page", "model", "format", "link", "pipe", "folder"]
)
def test_a_file_that_is_not_the_page_it_is_named_for_is_ignored(
    files: list[Path], folder: Path, start: Callable[..., Engine], state: str
) -> None:
    content, file = files[1].read_bytes(), files[1]
    file.unlink()
    match state:
        case "short":
            file.write_bytes(content[:-1])
        case "empty":
            file.touch()
        case "long":
            file.write_bytes(content + b"\0")
        case "page":
            file.write_bytes(files[2].read_bytes())
        case "model":
            file.write_bytes(content.replace(MODEL.hex().encode(), (b"b" * 32).hex().encode()))
        case "format":
            file.write_bytes(content.replace(b"mull.page/1", b"mull.page/2"))
        case "link":
            (folder / "elsewhere").write_bytes(content)
            file.symlink_to(folder / "elsewhere")
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
    engine = start()
    assert engine.answer(TEXT) == PAGE
    assert len(engine.store.ignored()) == 1


def test_tokens_are_compared_and_not_their_hash_alone(
    folder: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page after the same 64 tokens is not taken where what came before these differs."""
    honest = prefixes.chained
    for module in (prefixes, pages):
        monkeypatch.setattr(module, "chained", lambda digest, tokens: honest(b"", tokens))
    engine = start()
    engine.answer([*[1] * PAGE, *[2] * PAGE, *[3] * PAGE])
    engine.store.close()
    engine = start()
    assert engine.answer([*[1] * PAGE, *[3] * PAGE]) == PAGE
    assert engine.store.ignored() == {"cut short, or not a page of this model": 1}
    assert engine.answer([*[2] * PAGE, *[2] * PAGE, *[3] * PAGE]) == 0


def test_another_model_s_pages_are_not_found(files: list[Path], start: Callable[..., Engine]) -> None:
    engine = start(fingerprint=b"b" * 32)
    assert engine.answer(TEXT) == 0
    assert engine.store.ignored() == {}
    assert start().answer(TEXT) == FULL * PAGE


def test_less_than_a_page_is_not_kept(folder: Path, start: Callable[..., Engine]) -> None:
    engine = start()
    engine.answer(TEXT[: PAGE - 1])
    engine.store.close()
    assert held(folder).pages == ()


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning(
    folder: Path, start: Callable[..., Engine]
) -> None:
    new = [4] * PAGE
    texts = [[word] * (8 * PAGE) for word in (1, 2, 3)]
    for text in (*texts, texts[0]):
        engine = start(pool=large_pool())
        engine.answer(text)
        engine.store.close()
        time.sleep(0.02)  # uses a few milliseconds apart count as one
    size = held(folder).bytes // (3 * 8)
    engine = start(budget=22 * size, pool=large_pool())
    engine.answer(new)
    engine.store.close()
    left = [[file.exists() for file in files_of(text, folder)] for text in (*texts, new)]
    assert left == [[True] * 8, [True] * 4 + [False] * 4, [True] * 8, [True]]


def test_pages_that_are_larger_than_the_budget_are_not_kept_and_displace_nothing(
    files: list[Path], folder: Path, start: Callable[..., Engine]
) -> None:
    budget = held(folder).bytes
    engine = start(budget, pool=large_pool())
    engine.answer([5] * PAGE)
    engine.store.close()
    assert len(held(folder).pages) == FULL and engine.store.ignored() == {}


def test_a_budget_holds_at_any_moment(
    files: list[Path], folder: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = held(folder).bytes + 100
    most, write = 0, PageFormat.write

    def watched(*arguments: object) -> None:
        nonlocal most
        write(*arguments)  # type: ignore[arg-type]
        most = max(most, held(folder).bytes)

    monkeypatch.setattr(PageFormat, "write", watched)
    engine = start(budget)
    for word in range(5):
        engine.answer([word] * (FULL * PAGE))
    engine.store.close()
    assert 0 < most <= budget


def test_a_budget_holds_whatever_was_written_before(files: list[Path], folder: Path) -> None:
    size = held(folder).bytes
    for budget in (size - 1, size // 2, size // 4 - 100, 0):
        trim(folder, budget)
        assert held(folder).bytes <= budget
    assert not files[0].parent.exists()


def test_files_that_are_not_the_store_s_are_left_alone(
    files: list[Path], folder: Path, start: Callable[..., Engine]
) -> None:
    strangers = [folder / "notes.txt", files[0].parent / "model.safetensors", folder / "photos" / "one.png"]
    for stranger in strangers:
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_text("mine")
    assert {*held(folder).strangers} == {*strangers[:2], folder / "photos"}
    assert open_store(PageFolder(folder, 0), MODEL, small_pool()) is None
    assert held(folder).pages == () and all(stranger.read_text() == "mine" for stranger in strangers)


def test_the_default_budget_is_a_tenth_of_what_is_free_at_most(
    files: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PageFolder(folder, 123).limit() == 123
    taken = held(folder).bytes
    for free, budget in ((5 * 10**9, (5 * 10**9 + taken) // 10), (10**12, 4 * 10**9)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert PageFolder(folder).limit() == budget
    assert PageFolder(folder / "not" / "yet").limit() == budget


def test_two_engines_share_a_folder(folder: Path, start: Callable[..., Engine]) -> None:
    one, other = start(), start()
    one.answer(TEXT)
    one.store.close()
    assert other.answer([*TEXT, 5]) == FULL * PAGE
    trim(folder, 0)
    assert other.answer([4] * PAGE) == 0
    other.store.close()
    assert start().answer([4] * PAGE) == PAGE


def test_pages_that_vanish_are_computed(files: list[Path], start: Callable[..., Engine]) -> None:
    files[1].unlink()
    engine = start()
    assert engine.answer(TEXT) == PAGE
    engine.store.close()
    assert start().answer(TEXT) == FULL * PAGE


def test_a_folder_that_takes_no_files_is_no_reason_to_fail(
    folder: Path, start: Callable[..., Engine]
) -> None:
    engine = start()
    folder.joinpath(MODEL.hex()[:32]).write_text("in the way")
    engine.answer(TEXT)
    engine.store.close()
    reasons = engine.store.ignored()
    assert reasons and all(reason.startswith(("cannot be read", "cannot be written")) for reason in reasons)


def test_a_store_that_cannot_be_opened_is_none(folder: Path) -> None:
    folder.write_text("not a folder")
    assert open_store(PageFolder(folder), MODEL, small_pool()) is None


def test_pages_are_copied_one_at_a_time_and_only_when_there_is_room(
    folder: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start()
    copied = 0
    contents = engine.pool.contents

    def counted(prefix: prefixes.Prefix) -> torch.Tensor | None:
        nonlocal copied
        copied += 1
        return contents(prefix)

    monkeypatch.setattr(engine.pool, "contents", counted)
    engine.answer(TEXT)
    assert copied == 0, "the end of an answer copies nothing"
    for count in range(1, FULL + 1):
        assert engine.store.idle_work() and copied == count
    assert not engine.store.idle_work()
    engine.store.close()
    again = start()
    monkeypatch.setattr(again.pool, "contents", counted)
    again.answer(TEXT)
    assert not again.store.idle_work() and copied == FULL, "what is on disk is not copied again"


def test_what_was_given_up_before_there_was_time_is_not_written(
    folder: Path, start: Callable[..., Engine]
) -> None:
    engine = start()
    engine.answer(TEXT)
    holder = begun(engine.pool, [1] * (12 * PAGE))
    assert not engine.store.idle_work()
    engine.store.close()
    assert held(folder).pages == () and holds_its_own(holder)


def test_copies_wait_for_the_disk_and_the_store_asks_for_time_when_there_is_room_again(
    folder: Path, start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, room, write = threading.Event(), threading.Event(), PageFormat.write

    def slow(*arguments: object) -> None:
        assert gate.wait(30)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PageFormat, "write", slow)
    monkeypatch.setattr(store, "AT_ONCE_BYTES", 1)
    engine = start()
    engine.store.on_room = room.set
    engine.answer([*TEXT, *TEXT])
    while engine.store.idle_work() or not engine.store._writes.full():
        pass
    assert not room.is_set() and len(engine.store._offered) >= 2 * FULL - 2, "one is written, one waits"
    gate.set()
    assert room.wait(30)
    engine.store.close()
    assert all(file.exists() for file in files_of([*TEXT, *TEXT], folder))


WRITERS = """
import itertools, os, signal, sys, time
from pathlib import Path
sys.path.append({support!r})
import torch
from marked_pages import said
from engine.page_files import PageFolder, held
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.store import open_store

folder = Path({folder!r})
for first in range(0, 500_000, 100_000):
    before = len(held(folder).pages)
    if (writer := os.fork()) == 0:
        pool = PagePool(4, 4, 64, 12, torch.float32, "cpu")
        store = open_store(PageFolder(folder, 10**9), {model!r}, pool)
        for word in range(first, first + 100_000):
            said(pool, [word] * (4 * PAGE + 1))
            store.offer([word] * (4 * PAGE))
            while store._offered:
                store.idle_work()
    for _ in range(3000):
        if len(held(folder).pages) >= before + 20:
            break
        time.sleep(0.003)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
"""


def test_a_kill_while_pages_are_written_breaks_nothing(folder: Path, start: Callable[..., Engine]) -> None:
    support = str(Path(__file__).parents[2] / "support")
    script = WRITERS.format(support=support, model=MODEL, folder=str(folder))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert len(held(folder).pages) >= 100
    engine, found = start(pool=large_pool()), 0
    for first in range(0, 500_000, 100_000):
        for word in range(first, first + 5):
            found += engine.answer([word] * (4 * PAGE)) > 0
    assert found == 25 and engine.store.ignored() == {}


def test_what_a_killed_process_left_is_removed_in_time(files: list[Path], folder: Path) -> None:
    left, under_way = (page_files.unnamed(file) for file in files[:2])
    for file in (left, under_way):
        file.write_bytes(b"half a page")
    os.utime(left, (0, 0))
    assert trim(folder, PLENTY) == held(folder).bytes
    assert not left.exists() and under_way.exists()
