"""What is promised with `deterministic`: the same bits on every path, whatever is computed beside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import FAMILIES, prompt

from engine.backend import Lease, Sampler
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence
from profiles.detect import Settings, detect

CPU = Settings("cpu", "fp32", 1)
PROMPT = prompt(2 * PAGE + 45)
WARM = Sampler(temperature=1, top_p=0.95, top_k=50, seed=3)
EXPERTS = {"qwen3_moe", "gpt_oss"}
"""Their experts' products are transformers' own, whose bits depend on how many tokens they are given."""
Load = Callable[[str], LocalBackend]


@pytest.fixture(scope="module")
def exact(checkpoint: Callable[[str], Path]) -> Iterator[Load]:
    """A backend of a family, loaded with `deterministic`."""
    loaded: dict[str, LocalBackend] = {}

    def get(family: str) -> LocalBackend:
        if family not in loaded:
            spec = ModelSpec(model=str(checkpoint(family)), deterministic=True)
            loaded[family] = create(spec, detect().profile, CPU)
        return loaded[family]

    yield get
    for backend in loaded.values():
        backend.close()


def last_logits(backend: LocalBackend, parts: list[int]) -> np.ndarray:
    """After the prompt, forwarded in parts of these lengths."""
    sequence, begin = Sequence(backend.runner.pool), 0
    for length in parts:
        backend.runner.forward(sequence, PROMPT[begin : begin + length])
        begin += length
    assert begin == len(PROMPT)
    logits: np.ndarray = sequence.logits
    backend.runner.pool.release(sequence.table)
    return logits


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - EXPERTS))
def test_logits_have_the_same_bits_on_every_path(exact: Load, family: str) -> None:
    backend = exact(family)
    pool, size = backend.runner.pool, len(PROMPT)
    whole = last_logits(backend, [size])
    assert np.array_equal(last_logits(backend, [37] * (size // 37) + [size % 37]), whole), "in chunks"
    assert np.array_equal(last_logits(backend, [PAGE] + [1] * (size - PAGE)), whole), "token by token"

    held, others = Sequence(pool), [Sequence(pool) for _ in range(3)]
    for seed, other in enumerate(others):  # their pages come in between: the sequence's are not in a row
        backend.runner.forward(other, prompt(20, seed + 5))
    backend.runner.run([Row(held, PROMPT[:100]), Row(others[0], prompt(77, 9))])
    backend.runner.run([*[Row(other, [7]) for other in others], Row(held, PROMPT[100:101])])
    fork = held.fork()
    rows = [Row(held, PROMPT[101:]), Row(others[1], prompt(5, 3)), Row(fork, PROMPT[101:])]
    backend.runner.run(rows)
    assert np.array_equal(held.logits, whole) and np.array_equal(fork.logits, whole), "batched and forked"
    for sequence in (held, fork, *others):
        pool.release(sequence.table)
    pool.check_integrity([])


async def test_samples_are_the_same_alone_and_beside_others_cached_and_not(exact: Load) -> None:
    backend = exact("qwen3")
    alone = await backend.prefill(PROMPT, Lease(0))
    [fork] = await backend.fork(alone, 1)
    expected = (await backend.extend(fork, "answer", Lease(80), WARM)).ids
    await backend.cancel(alone)
    again = await backend.prefill(PROMPT, Lease(0))
    assert again.account.cached > PAGE
    forks = await backend.fork(again, 5)
    strangers = [await backend.prefill(prompt(90, seed), Lease(0)) for seed in (11, 12)]
    found = await asyncio.gather(
        *[backend.extend(node, "answer", Lease(80), WARM) for node in [*strangers, *forks]]
    )
    assert found[2].ids == expected
    assert len({extension.ids for extension in found}) == len(found), "each on a path of its own"
    for node in (fork, again, *forks, *strangers):
        await backend.cancel(node)


def test_the_receipt_names_the_class(exact: Load) -> None:
    for family, forward in (("qwen3", "fused"), ("gemma2", "stock")):
        by_kernel = exact(family).runner.pool.storage.attention
        assert by_kernel is not None, "these tests need a C compiler"
        named = f"fp32-{forward}-packed-attention-{by_kernel.instruction_set}-exact-1t"
        assert exact(family).kernel_class.endswith(named)


def test_without_it_the_bits_do_depend_on_the_path(load: Load) -> None:
    """Else the tests above would prove nothing."""
    backend, size = load("qwen3"), len(PROMPT)
    paths = [[size], [37] * (size // 37) + [size % 37], [PAGE] + [1] * (size - PAGE)]
    first, *others = [last_logits(backend, parts) for parts in paths]
    assert any(not np.array_equal(first, other) for other in others)
