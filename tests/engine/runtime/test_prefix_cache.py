"""A prompt whose beginning is cached gives the text and logits that it gives without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from random_checkpoint import FAMILIES, WINDOW, prompt, reference

from engine.backend import Lease, Sampler
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.prefixes import PrefixTree
from engine.runtime.sampler import NotFinite
from engine.runtime.sequence import Sequence

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
SHARED = prompt(2 * PAGE + WINDOW, seed=11)
"""Over two pages and a part of one, and longer than any window."""
ONE, OTHER = ([*SHARED, *prompt(WINDOW // 2, seed=seed)] for seed in (12, 13))
NEW = PAGE + 6
TOLERANCE = 2e-4

Load = Callable[[str], LocalBackend]


async def told(
    backend: LocalBackend, ids: list[int], count: int = NEW, beside: Sequence | None = None
) -> tuple[list[int], np.ndarray, int]:
    """Greedy tokens after `ids`, the logits of the first and the last, and how many of `ids` were cached.

    Where another sequence stands in the way, `beside`, the pages do not lie in a row.
    """
    node = await backend.prefill(ids, Lease(0))
    assert isinstance(node, Sequence)
    try:
        assert node.account.cached + sum(entry.tokens for entry in node.account.forwarded) == len(ids)
        logits = [node.logits]
        tokens = list((await backend.extend(node, "answer", Lease(count), GREEDY)).ids)
        in_a_row = node.table == list(range(node.table[0], node.table[0] + len(node.table)))
        assert in_a_row == (beside is None)
        backend.runner.pool.check_integrity([node.table, *([beside.table] if beside else [])])
        return tokens, np.stack([*logits, node.logits]), node.account.cached
    finally:
        await backend.cancel(node)


async def forget_all(backend: LocalBackend) -> None:
    """Fill the pool with something else, so that nothing is known any more."""
    pool, table = backend.runner.pool, list[int]()
    pool.grow(table, pool.pages)
    pool.release(table)
    assert pool.idle == 0


def agrees(backend: LocalBackend, ids: list[int], text: tuple[list[int], np.ndarray, int]) -> bool:
    """Whether transformers, given prompt and text, predicts each token of it, and these logits."""
    tokens, logits, _ = text
    with torch.no_grad():
        rows = reference(backend.info.path)(torch.tensor([[*ids, *tokens[:-1]]])).logits[0].float().numpy()
    rows = rows[len(ids) - 1 :]
    behind_the_best = rows.max(-1) - rows[np.arange(len(tokens)), tokens]
    return behind_the_best.max() < TOLERANCE and np.abs(rows[[0, -1]] - logits).max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_cached_beginning_leads_to_the_text_of_transformers(load: Load, family: str) -> None:
    backend = load(family)
    await forget_all(backend)
    first = await told(backend, ONE)
    second = await told(backend, OTHER)
    between = await told(backend, prompt(PAGE + 9, seed=14))
    again = await told(backend, ONE)
    follow_up = [*ONE, *again[0][:-5], *prompt(9, seed=15)]
    third = await told(backend, follow_up)
    assert [text[2] for text in (first, second, between)] == [0, len(SHARED), 0]
    assert (again[2], third[2]) == (len(ONE) - 1, len(ONE) + NEW - 5)
    for ids, text in [(ONE, first), (OTHER, second), (ONE, again), (follow_up, third)]:
        assert agrees(backend, ids, text)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_cached_beginning_in_scattered_pages_leads_to_the_same_text(load: Load, family: str) -> None:
    backend = load(family)
    await forget_all(backend)
    first = await told(backend, ONE)
    stranger = await backend.prefill(OTHER, Lease(0))  # it stands where the first text would go on
    assert isinstance(stranger, Sequence)
    second = await told(backend, ONE, beside=stranger)
    await backend.cancel(stranger)
    assert second[2] == len(ONE) - 1
    assert agrees(backend, ONE, first) and agrees(backend, ONE, second)


async def test_what_was_evicted_is_forwarded_again(qwen3: LocalBackend) -> None:
    await forget_all(qwen3)
    first = await told(qwen3, ONE)
    await forget_all(qwen3)
    again = await told(qwen3, ONE)
    assert again[2] == 0 and again[0] == first[0]


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
async def test_a_fork_at_any_moment_goes_on_as_its_recomputation(load: Load, family: str) -> None:
    runner = load(family).runner
    for length in (PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + WINDOW):
        trunk = Sequence(runner.pool)
        runner.forward(trunk, ONE[:length])
        branches = [trunk, trunk.fork()]
        branches.append(branches[1].fork())
        for number, branch in enumerate(branches):
            runner.forward(branch, prompt(PAGE + 3, seed=number))
        shared = length // PAGE
        assert all(branch.table[:shared] == trunk.table[:shared] for branch in branches)
        runner.pool.check_integrity([branch.table for branch in branches])
        for number, branch in enumerate(branches):
            whole = Sequence(runner.pool)
            runner.forward(whole, [*ONE[:length], *prompt(PAGE + 3, seed=number)])
            assert np.abs(whole.logits - branch.logits).max() < TOLERANCE
            whole.release()
        for branch in branches:
            branch.release()


async def test_a_prompt_is_shared_while_the_answer_to_it_goes_on(qwen3: LocalBackend) -> None:
    await forget_all(qwen3)
    first = await qwen3.prefill(ONE, Lease(0))
    second = await told(qwen3, ONE, beside=first)  # type: ignore[arg-type]
    assert second[2] == len(ONE) // PAGE * PAGE
    text = (await qwen3.extend(first, "answer", Lease(NEW), GREEDY)).ids
    assert list(text) == second[0]
    await qwen3.cancel(first)


async def test_an_answer_that_was_cancelled_leaves_what_it_had(qwen3: LocalBackend) -> None:
    await forget_all(qwen3)
    lease, heard = Lease(500), []

    def stop(ids: tuple[int, ...]) -> None:
        heard.extend(ids)
        lease.cancelled = True

    node = await qwen3.prefill(ONE, Lease(0))
    await qwen3.extend(node, "answer", lease, GREEDY, on_tokens=stop)
    await qwen3.cancel(node)
    assert (await told(qwen3, [*node.ids, 5]))[2] >= len(ONE) + len(heard) - 1


async def test_contents_that_gave_no_numbers_are_not_used_again(
    qwen3: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await forget_all(qwen3)
    expected = await told(qwen3, ONE)
    forward = qwen3.runner._forward

    def broken(*arguments: object) -> object:
        out = forward(*arguments)  # type: ignore[arg-type]
        return None if out is None else out * float("nan")

    monkeypatch.setattr(qwen3.runner, "_forward", broken)
    node = await qwen3.prefill(ONE, Lease(0))
    with pytest.raises(NotFinite):
        await qwen3.extend(node, "answer", Lease(5), GREEDY)
    await qwen3.cancel(node)
    monkeypatch.setattr(qwen3.runner, "_forward", forward)
    again = await told(qwen3, ONE)
    assert again[2] == 0 and again[0] == expected[0]


# The comparison is worth something only if it fails when something wrong is taken from the cache.


def publish_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish pages as if they held what they do not."""
    publish = PrefixTree.publish

    def wrong(tree: PrefixTree, ids: list[int], pages: list[int]) -> object:
        return publish(tree, [*SHARED[: len(ids)], *ids[len(SHARED) :]], pages)

    monkeypatch.setattr(PrefixTree, "publish", wrong)


def copy_another_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a part of a page from elsewhere."""
    copy = PagePool._copy
    monkeypatch.setattr(PagePool, "_copy", lambda pool, page, to: copy(pool, 0, to))


@pytest.mark.parametrize("mutate", [publish_other_tokens, copy_another_page])
@pytest.mark.parametrize("family", FAMILIES)
async def test_the_comparison_notices_what_was_wrongly_taken(
    load: Load, family: str, monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None]
) -> None:
    backend = load(family)
    await forget_all(backend)
    with monkeypatch.context() as changed:
        mutate(changed)
        said = prompt(len(SHARED), seed=16) if mutate is publish_other_tokens else SHARED
        await told(backend, [*said, *ONE[len(SHARED) :]])
        text = await told(backend, OTHER)
    assert text[2] == len(SHARED)
    assert not agrees(backend, OTHER, text)
    await forget_all(backend)
