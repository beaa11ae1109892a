"""Keys and values in int8: near to the model's as promised, the same on every path, and smaller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from random_checkpoint import prompt, reference

from engine.backend import Lease, Sampler
from engine.page_files import PageFolder
from engine.protocol import KV, ModelSpec
from engine.runtime import assemble
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.memory import SystemMemory, system_memory
from engine.runtime.pages import PAGE
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence
from engine.runtime.storage import Int8Storage
from profiles.costs import decode_bytes, kv_bytes_per_token
from profiles.detect import Settings, detect

CPU = Settings("cpu", "fp32", 1)
PROMPT = prompt(2 * PAGE + 60)
GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
WARM = Sampler(temperature=1, top_p=1, top_k=0, seed=5)
DIVERGENCE = {
    "llama": 3e-3,
    "qwen3": 1e-3,
    "mistral": 3e-3,
    "gemma2": 1e-3,
    "gemma3_text": 1e-3,
    "gpt_oss": 0.03,
}
"""The mean Kullback-Leibler divergence, in nats, that rounding may cost these models of random weights."""
ROUNDING = 0.05
"""The largest difference of two logits where the products before the rounding were grouped otherwise."""

Load = Callable[[str], LocalBackend]


@pytest.fixture(scope="module")
def open_int8(checkpoint: Callable[[str], Path]) -> Iterator[Callable[..., LocalBackend]]:
    loaded: dict[tuple[str, bool], LocalBackend] = {}

    def get(family: str, deterministic: bool = False) -> LocalBackend:
        key = (family, deterministic)
        if key not in loaded:
            spec = ModelSpec(model=str(checkpoint(family)), kv="int8", deterministic=deterministic)
            loaded[key] = create(spec, detect().profile, CPU)
        return loaded[key]

    yield get
    for backend in loaded.values():
        backend.close()


def rows(backend: LocalBackend, parts: list[int], ids: list[int] = PROMPT) -> np.ndarray:
    """The logits after each part of the prompt, forwarded in parts of these lengths; leaves no trace."""
    sequence, found, begin = Sequence(backend.runner.pool), [], 0
    for length in parts:
        backend.runner.forward(sequence, ids[begin : begin + length])
        found.append(sequence.logits)
        begin += length
    backend.runner.pool.release(sequence.table)
    return np.stack(found)


@pytest.mark.parametrize("family", DIVERGENCE)
def test_log_probabilities_stay_near_those_of_transformers(
    open_int8: Load, checkpoint: Callable[[str], Path], family: str
) -> None:
    cached = PAGE + 9
    with torch.no_grad():
        logits = reference(checkpoint(family))(torch.tensor([PROMPT])).logits[0, cached - 1 :]
    expected = torch.log_softmax(logits, -1)
    ours = rows(open_int8(family), [cached] + [1] * (len(PROMPT) - cached))
    found = torch.log_softmax(torch.from_numpy(ours), -1)
    divergence = (expected.exp() * (expected - found)).sum(-1)
    assert 1e-6 < divergence.mean() < DIVERGENCE[family]


@pytest.mark.parametrize("head_dim", [16, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_is_the_nearest_of_255_steps_by_token_and_head(
    dtype: torch.dtype, head_dim: int
) -> None:
    torch.manual_seed(0)
    storage = Int8Storage(2, 3, head_dim, 4, dtype, "cpu")
    written = torch.randn(2, 3, 40, head_dim) * torch.logspace(-9, 9, 40)[None, None, :, None]
    written[:, :, 7] = 0
    keys, values = written.to(dtype)
    storage.write_run(1, 70, keys, values)
    read = torch.cat(storage.read_run(1, 70, 40)).float()
    step = written.to(dtype).float().abs().amax(-1, keepdim=True) / 127
    slack = 2**-8 * 127 if dtype == torch.bfloat16 else 1e-3
    assert ((read - written.to(dtype).float()).abs() <= step * (0.5 + slack)).all()
    assert ((read / step)[step.expand_as(read) > 0].abs().max() - 127).abs() < 2 * slack, (
        "symmetric, to the end"
    )
    slots = torch.arange(109, 69, -1)
    storage.write_slots(0, slots, keys, values)
    backwards = torch.cat(storage.read_pages(0, torch.tensor([1]), slice(6, 46))).float()
    assert torch.equal(backwards.flip(2), read)


def test_what_is_not_finite_is_not_hidden() -> None:
    storage = Int8Storage(1, 1, 8, 1, torch.float32, "cpu")
    for wrong in (torch.inf, -torch.inf, torch.nan):
        keys = torch.ones(1, 1, 8)
        keys[0, 0, 3] = wrong
        storage.write_run(0, 0, keys, torch.ones(1, 1, 8))
        read, values = storage.read_run(0, 0, 1)
        assert not read.isfinite().all() and torch.equal(values, torch.ones(1, 1, 1, 8))


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma2", "gemma3_text", "olmo2"])
def test_logits_have_the_same_bits_on_every_path(open_int8: Callable[..., LocalBackend], family: str) -> None:
    """A token attends to the keys of its own chunk as they are stored, like any later one."""
    backend = open_int8(family, True)
    runner, pool, size = backend.runner, backend.runner.pool, len(PROMPT)
    whole = rows(backend, [size])[-1]

    def same(sequence: Sequence) -> bool:
        return np.array_equal(sequence.logits, whole)

    assert np.array_equal(rows(backend, [37] * (size // 37) + [size % 37])[-1], whole), "in chunks"
    assert np.array_equal(rows(backend, [PAGE] + [1] * (size - PAGE))[-1], whole), "token by token"

    held, others = Sequence(pool, ids=list(PROMPT)), [Sequence(pool) for _ in range(3)]
    for seed, other in enumerate(others):  # their pages come in between: the sequence's are not in a row
        runner.forward(other, prompt(20, seed + 5))
    runner.run([Row(held, PROMPT[:100]), Row(others[0], prompt(77, 9))])
    fork = held.fork()
    runner.run([Row(held, PROMPT[100:]), Row(others[1], prompt(5, 3)), Row(fork, PROMPT[100:])])
    assert same(held) and same(fork), "batched and forked"

    fork.preempt()
    assert not fork.table
    fork.readopt()
    assert fork.cached == size, "what it gave up is still there"
    fork.release()
    held.preempt()
    pool.grow(hog := [], pool.pages - sum(len(other.table) for other in others))
    pool.release(hog)
    held.readopt()
    assert held.cached == 0, "others took its pages"
    runner.forward(held, PROMPT[:90])
    runner.forward(held, PROMPT[90:])
    assert same(held), "pre-empted and computed again"

    held.release()
    cached = Sequence(pool, ids=list(PROMPT))
    cached.adopt(PROMPT[: PAGE + 40])
    assert cached.cached == PAGE + 40, "a page shared, a part of one copied"
    runner.forward(cached, PROMPT[cached.cached :])
    assert same(cached), "cached"
    for sequence in (cached, *others):
        sequence.release()
    pool.check_integrity([])


def test_pages_that_were_copied_out_and_in_give_the_same_bits(
    open_int8: Callable[..., LocalBackend],
) -> None:
    backend = open_int8("qwen3")
    pool, ids = backend.runner.pool, prompt(2 * PAGE + 20, 3)
    first = Sequence(pool, ids=list(ids))
    backend.runner.forward(first, ids[: 2 * PAGE])
    backend.runner.forward(first, ids[2 * PAGE :])
    expected = first.logits
    first.release()
    pages = [pool.contents(prefix) for prefix in pool.known(ids)]
    pool.grow(hog := [], pool.pages)
    pool.storage.memory.fill_(1)
    pool.release(hog)
    again = Sequence(pool)
    assert pool.restore(ids[: 2 * PAGE], pages) == 2 * PAGE
    again.adopt(ids[: 2 * PAGE])
    backend.runner.forward(again, ids[2 * PAGE :])
    assert np.array_equal(again.logits, expected)
    again.release()


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2", "gpt_oss"])
async def test_greedy_text_is_the_same_forked_batched_and_preempted(open_int8: Load, family: str) -> None:
    backend = open_int8(family)
    node = await backend.prefill(PROMPT, Lease(0))
    [alone] = await backend.fork(node, 1)
    text = (await backend.extend(alone, "answer", Lease(40), GREEDY)).ids
    assert len(set(text)) > 5
    strangers = [await backend.prefill(prompt(90, seed), Lease(0)) for seed in (11, 12)]
    forks = [*await backend.fork(node, 3)]
    [halfway] = await backend.fork(node, 1)
    await backend.extend(halfway, "answer", Lease(11), GREEDY)
    forks += await backend.fork(halfway, 1)
    await backend._call(forks[0].preempt)  # type: ignore[attr-defined]
    leases = [Lease(40), Lease(40), Lease(40), Lease(40), Lease(40), Lease(29)]
    extensions = [
        backend.extend(it, "answer", lease, GREEDY)
        for it, lease in zip([*strangers, *forks], leases, strict=True)
    ]
    found = [extension.ids for extension in await asyncio.gather(*extensions)]
    assert found[2:] == [text, text, text, text[11:]]
    for it in (node, alone, halfway, *strangers, *forks):
        await backend.cancel(it)
    backend.runner.pool.check_integrity([])


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2"])
def test_paths_that_group_their_products_otherwise_differ_by_rounding_alone(
    open_int8: Load, family: str
) -> None:
    backend, size = open_int8(family), len(PROMPT)
    whole = rows(backend, [size])[-1]
    for parts in ([50] * 3 + [size - 150], [size - 1, 1], [PAGE] + [1] * (size - PAGE)):
        assert np.abs(rows(backend, parts)[-1] - whole).max() < ROUNDING
    pool = backend.runner.pool
    trunk = Sequence(pool)
    backend.runner.forward(trunk, PROMPT[:-1])
    forks = [trunk.fork() for _ in range(4)]
    backend.runner.run([Row(fork, PROMPT[-1:]) for fork in forks])  # over the pages that they share
    for fork in forks:
        assert np.abs(fork.logits - whole).max() < ROUNDING
        pool.release(fork.table)
    pool.release(trunk.table)


def test_a_token_takes_its_int8_and_its_scales_and_nothing_more(open_int8: Load, load: Load) -> None:
    small, plain = open_int8("qwen3"), load("qwen3")
    heads, width = 2 * 4 * 2, 16  # keys and values of four layers with two heads
    assert plain.runner.pool.page_bytes == PAGE * heads * width * 4
    assert small.runner.pool.page_bytes == PAGE * heads * (width + 4)
    assert small.runner.pool.storage.memory.nbytes == small.runner.pool.pages * small.runner.pool.page_bytes
    assert kv_bytes_per_token(small.shape) * PAGE == small.runner.pool.page_bytes
    assert decode_bytes(small.shape, 101).kv_read == 100 * heads * (width + 4)
    assert (small.info.kv_dtype, plain.info.kv_dtype) == ("int8", "fp32")
    assert "kv-int8" in small.kernel_class and "int8" not in plain.kernel_class


def test_more_context_fits_into_the_same_memory(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(device: str) -> SystemMemory:
        return replace(system_memory(device), free=4 * 200 * 1024)  # a quarter holds 200 tokens of float32

    monkeypatch.setattr(assemble, "system_memory", scarce)
    contexts = []
    for kv in get_args(KV):
        backend = create(ModelSpec(model=str(checkpoint("qwen3")), kv=kv), detect().profile, CPU)
        contexts.append(backend.info.context)
        backend.close()
    assert contexts == [200, 640]


async def test_a_prompt_on_disk_comes_back_with_its_scales_and_for_int8_alone(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    texts, restored = [], []
    for kv in ("int8", "int8", "model"):
        spec = ModelSpec(model=str(checkpoint("qwen3")), kv=kv, deterministic=True)
        backend = create(spec, detect().profile, CPU, prompts=PageFolder(tmp_path / "prompts", 10**9))
        node = await backend.prefill(PROMPT, Lease(0))
        texts.append((await backend.extend(node, "answer", Lease(30), WARM)).ids)
        restored.append(node.account.restored)
        await backend.cancel(node)
        backend.close()
    assert restored == [0, 2 * PAGE, 0]
    assert texts[0] == texts[1]
