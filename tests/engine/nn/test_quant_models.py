"""Quantized models say the same with the kernels and without, on each path through the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import prompt, save_checkpoint

from engine.backend import Lease, Sampler
from engine.nn.kernels import build
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.runtime.sequence import Sequence
from profiles.detect import Settings, detect

CPU = Settings("cpu", "fp32", 1)
GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
PROMPT = prompt(PAGE + 20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    families = {"qwen3": "fused", "olmo2": "stock", "qwen3_moe": "stock"}
    return {family: save_checkpoint(tmp_path_factory.mktemp(family), family) for family in families}


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """They are found anew, then as before."""
    build._found.cache_clear()
    monkeypatch.setenv("MULL_KERNELS", "off")
    yield monkeypatch
    build._found.cache_clear()


def load(folder: Path, quant: str, deterministic: bool = False) -> LocalBackend:
    spec = ModelSpec(model=str(folder), quant=quant, draft="off", deterministic=deterministic)
    return create(spec, detect().profile, CPU)


def logits(backend: LocalBackend, parts: list[int]) -> np.ndarray:
    """After the prompt, forwarded in parts of these lengths."""
    sequence, begin = Sequence(backend.runner.pool), 0
    for length in parts:
        backend.runner.forward(sequence, PROMPT[begin : begin + length])
        begin += length
    found: np.ndarray = sequence.logits
    backend.runner.pool.release(sequence.table)
    return found


async def greedy(backend: LocalBackend) -> tuple[int, ...]:
    node = await backend.prefill(PROMPT, Lease(0))
    ids = (await backend.extend(node, "answer", Lease(30), GREEDY)).ids
    await backend.cancel(node)
    return ids


@pytest.mark.parametrize("quant", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("family", ["qwen3", "olmo2", "qwen3_moe"])
def test_a_text_is_the_same_with_and_without_kernels(
    folders: dict[str, Path], family: str, quant: str, without_kernels: pytest.MonkeyPatch
) -> None:
    by_torch = load(folders[family], quant)
    assert "kernels" not in by_torch.kernel_class
    without_kernels.delenv("MULL_KERNELS")
    build._found.cache_clear()
    by_kernels = load(folders[family], quant)
    assert "-kernels-" in by_kernels.kernel_class
    size = len(PROMPT)
    expected, found = logits(by_torch, [size]), logits(by_kernels, [size])
    assert 0 < np.abs(found - expected).max() < 1e-4, "near, and not by the same operators"
    text = asyncio.run(greedy(by_kernels))
    assert text == asyncio.run(greedy(by_torch)) and len(set(text)) > 5
    by_torch.close()
    by_kernels.close()


@pytest.mark.parametrize("quant", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
def test_deterministic_logits_have_the_same_bits_on_every_path(
    folders: dict[str, Path], family: str, quant: str
) -> None:
    backend, size = load(folders[family], quant, deterministic=True), len(PROMPT)
    assert backend.kernel_class.endswith("-exact-1t")
    whole = logits(backend, [size])
    for parts in ([37] * (size // 37) + [size % 37], [3] * (size // 3), [PAGE] + [1] * (size - PAGE)):
        assert np.array_equal(logits(backend, parts), whole)
    backend.close()


def test_deterministic_promises_nothing_where_torch_multiplies(
    folders: dict[str, Path], without_kernels: pytest.MonkeyPatch
) -> None:
    backend = load(folders["qwen3"], "int8", deterministic=True)
    assert "exact" not in backend.kernel_class
    backend.close()
