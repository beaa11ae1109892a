"""Sliding windows read their window, whether pages lie in a row or not; full attention reads all there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from random_checkpoint import FAMILIES, WINDOW, prompt

from engine.protocol import KV, ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence
from engine.runtime.storage import Storage
from profiles.detect import Settings, detect

CPU = Settings("cpu", "fp32", 1)
SLIDING = [family for family in FAMILIES if "sliding_window" in FAMILIES[family]]
LENGTH = 3 * PAGE + 11
"""Tokens that are cached: a window of them lies in one page, or in two."""


@pytest.fixture(scope="module", params=["model", "int8"])
def load_kv(
    request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]
) -> Iterator[Callable[[str], LocalBackend]]:
    loaded: dict[str, LocalBackend] = {}
    kv: KV = request.param

    def get(family: str) -> LocalBackend:
        if family not in loaded:
            loaded[family] = create(ModelSpec(model=str(checkpoint(family)), kv=kv), detect().profile, CPU)
        return loaded[family]

    yield get
    for backend in loaded.values():
        backend.close()


@pytest.fixture
def keys_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Storage], dict[int, list[int]]]:
    """Note how many slots each read takes from a storage, by layer."""

    def watch(storage: Storage) -> dict[int, list[int]]:
        noted: dict[int, list[int]] = defaultdict(list)
        read_run, read_pages = storage.read_run, storage.read_pages

        def run(layer: int, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
            noted[layer].append(length)
            return read_run(layer, slot, length)

        def pages(layer: int, pages: torch.Tensor, seen: slice) -> tuple[torch.Tensor, torch.Tensor]:
            noted[layer].append(len(pages) * PAGE)
            return read_pages(layer, pages, seen)

        monkeypatch.setattr(storage, "read_run", run)
        monkeypatch.setattr(storage, "read_pages", pages)
        return noted

    return watch


@pytest.mark.parametrize("family", SLIDING)
def test_a_decoded_token_and_a_chunk_read_no_more_than_the_window_lets_them_see(
    load_kv: Callable[[str], LocalBackend],
    keys_read: Callable[[Storage], dict[int, list[int]]],
    family: str,
) -> None:
    backend = load_kv(family)
    pool, windows = backend.runner.pool, backend.shape.windows
    assert WINDOW in windows
    sequence = Sequence(pool)
    backend.runner.forward(sequence, prompt(LENGTH))
    noted = keys_read(pool.storage)
    backend.runner.forward(sequence, [7])
    backend.runner.forward(sequence, prompt(10))
    for layer, window in enumerate(windows):
        full = [LENGTH + 1, LENGTH + 11]
        assert noted[layer] == (full if window is None else [window, window - 1 + 10])
    pool.release(sequence.table)


@pytest.mark.parametrize("family", SLIDING)
def test_out_of_scattered_pages_only_those_of_the_window_are_gathered(
    load_kv: Callable[[str], LocalBackend],
    keys_read: Callable[[Storage], dict[int, list[int]]],
    family: str,
) -> None:
    backend = load_kv(family)
    pool = backend.runner.pool
    sequence, other = Sequence(pool), Sequence(pool)
    for begin in range(0, LENGTH, PAGE):  # the two take pages in turns
        length = min(PAGE, LENGTH - begin)
        backend.runner.run([Row(sequence, prompt(length)), Row(other, prompt(length))])
    noted = keys_read(pool.storage)
    backend.runner.forward(sequence, [7])
    first = (LENGTH + 1 - WINDOW) // PAGE
    for layer, window in enumerate(backend.shape.windows):
        assert noted[layer] == [(4 if window is None else 4 - first) * PAGE]
    pool.release(sequence.table)
    pool.release(other.table)
