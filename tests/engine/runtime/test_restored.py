"""What an engine takes from disk leads to the text and logits that it would have computed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from random_checkpoint import FAMILIES, WINDOW, prompt, reference

from engine.backend import Lease, Sampler
from engine.load.checkpoint import inspect
from engine.load.plan import QuantPlan, plan_of
from engine.page_files import PageFolder
from engine.protocol import ModelSpec
from engine.protocol.quant import parse_quant
from engine.runtime.create import create
from engine.runtime.fingerprint import fingerprint
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.runtime.sequence import Sequence
from profiles.detect import Settings, detect

CPU = Settings(device="cpu", dtype="fp32", threads=1)
GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
LONG = prompt(3 * PAGE + WINDOW, seed=11)
NEW = PAGE + 6
TOLERANCE = 2e-4

Checkpoint = Callable[[str], Path]


def start(checkpoint: Path, prompts: Path, kv: Literal["model", "int8"] = "model") -> LocalBackend:
    spec = ModelSpec(model=str(checkpoint), kv=kv)
    return create(spec, detect().profile, CPU, prompts=PageFolder(prompts, 10**9))


async def told(backend: LocalBackend, ids: list[int]) -> tuple[list[int], np.ndarray, int]:
    """Greedy tokens, the logits after the last, and how many of `ids` came from disk."""
    node = await backend.prefill(ids, Lease(0))
    assert isinstance(node, Sequence)
    tokens = list((await backend.extend(node, "answer", Lease(NEW), GREEDY)).ids)
    assert node.account.cached >= node.account.restored
    logits = node.logits
    await backend.cancel(node)
    return tokens, logits, node.account.restored


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_restored_prompt_leads_to_the_text_of_transformers(
    checkpoint: Checkpoint, tmp_path: Path, family: str
) -> None:
    folder = checkpoint(family)
    first = start(folder, tmp_path)
    expected = await told(first, LONG)
    first.close()
    second = start(folder, tmp_path)
    tokens, logits, restored = await told(second, LONG)
    second.close()
    assert (expected[2], restored) == (0, 3 * PAGE)
    assert tokens == expected[0]
    with torch.no_grad():
        rows = reference(folder)(torch.tensor([[*LONG, *tokens[:-1]]])).logits[0].float().numpy()
    behind_the_best = rows.max(-1)[len(LONG) - 1 :] - rows[np.arange(len(LONG) - 1, len(rows)), tokens]
    assert behind_the_best.max() < TOLERANCE
    assert np.abs(rows[-1] - logits).max() < TOLERANCE


async def test_keys_and_values_in_int8_come_back_as_they_were(checkpoint: Checkpoint, tmp_path: Path) -> None:
    told_by = []
    for _ in range(2):
        backend = start(checkpoint("qwen3"), tmp_path, "int8")
        told_by.append(await told(backend, LONG))
        backend.close()
    assert [told[2] for told in told_by] == [0, 3 * PAGE]
    assert told_by[0][0] == told_by[1][0]
    other = start(checkpoint("qwen3"), tmp_path)
    assert (await told(other, LONG))[2] == 0, "they are of another kind"
    other.close()


async def test_what_finds_no_room_is_computed(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(checkpoint("qwen3"), tmp_path)
    expected = await told(first, LONG)
    first.close()
    second = start(checkpoint("qwen3"), tmp_path)
    monkeypatch.setattr(second._store, "_at_once", 1)
    monkeypatch.setattr(second.runner.pool, "restore", lambda ids, pages: 0)
    tokens, _, restored = await told(second, LONG)
    second.close()
    assert (tokens, restored) == (expected[0], 0)


async def test_answers_keep_coming_while_another_prompt_is_read(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(checkpoint("qwen3"), tmp_path)
    await told(first, LONG)
    first.close()
    second = start(checkpoint("qwen3"), tmp_path)
    store, pool, gate = second._store, second.runner.pool, threading.Event()
    assert store is not None
    read, restore, threads = store.read, pool.restore, []

    def slow(ids: list[int]) -> object:
        if ids == LONG[:-1]:
            assert gate.wait(60)
        return read(ids)

    def watched(ids: list[int], pages: list[torch.Tensor]) -> int:
        threads.append(threading.current_thread().name)
        return restore(ids, pages)

    monkeypatch.setattr(store, "read", slow)
    monkeypatch.setattr(pool, "restore", watched)
    waiting = asyncio.create_task(told(second, LONG))
    other = await told(second, prompt(PAGE + 3, seed=5))
    assert len(other[0]) == NEW and not waiting.done()
    gate.set()
    assert (await waiting)[2] == 3 * PAGE
    assert threads == ["engine"], "pages change on the engine's thread alone"
    second.close()


def test_a_fingerprint_changes_with_weights_configuration_and_arithmetic_alone(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    original, folder = checkpoint("qwen3"), tmp_path / "copy"
    folder.mkdir()
    weights, config = folder / "model.safetensors", folder / "config.json"
    dates = [(original / weights.name).stat().st_mtime_ns] * 2

    def put(content: bytes, settings: str) -> bytes:
        """The fingerprint with these weights, under the file date that the original has."""
        weights.write_bytes(content)
        os.utime(weights, ns=(dates[0], dates[1]))
        config.write_text(settings)
        return fingerprint(inspect(folder), QuantPlan(), "avx2")

    content, settings = (original / weights.name).read_bytes(), (original / config.name).read_text()
    half = len(content) // 2
    trained = content[:half] + bytes(byte ^ 1 for byte in content[half:])
    first = put(content, settings)
    assert put(content, settings) == first == fingerprint(inspect(original), QuantPlan(), "avx2")
    assert fingerprint(inspect(folder), QuantPlan(), "avx512") != first
    plans = (plan_of(parse_quant(text), False, "") for text in ("int4,up_proj=int8", "int4,down_proj=int8"))
    assert len({first, *(fingerprint(inspect(folder), plan, "avx2") for plan in plans)}) == 3
    assert put(trained, settings) != first
    assert put(content, settings.replace("10000.0", "20000.0")) != first
