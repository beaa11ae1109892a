"""What was sampled is chosen again in one pass; by its margin a choice is told from what rounding does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from random_checkpoint import prompt

from engine.backend import Choice, Lease, Node, Sampler
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.runtime.rechoosing import margin
from engine.runtime.sampler import choose

WARM = Sampler(temperature=1, top_p=0.9, top_k=20, seed=5)


def chosen(node: Node) -> list[Choice]:
    """What was sampled onto a node itself."""
    return [
        Choice(at, node.ids[at], origin.sampler, node.path, origin.banned)
        for origin in node.origins
        if origin.sampler is not None
        for at in range(origin.begin, origin.end)
    ]


async def test_paths_that_gave_way_were_forked_and_probed_come_out_the_same(
    small: Callable[..., LocalBackend],
) -> None:
    backend = small(9)
    ids = prompt(PAGE + 9, seed=3)
    root = await backend.prefill(ids, Lease(0))
    nodes = await backend.fork(root, 3)

    async def written(node: Node, tokens: int) -> None:
        await backend.extend(node, "answer", Lease(tokens), WARM, banned=frozenset({7}))

    async def tried() -> None:
        await backend.probe(nodes[0], prompt(5, seed=8), 4, WARM)
        nodes.extend(await backend.fork(nodes[1], 1))

    await asyncio.gather(*(written(node, 100) for node in nodes[:3]), tried())
    await backend.force(nodes[0], "answer", prompt(6, seed=4))
    for node in (nodes[0], nodes[3]):
        await written(node, 20)
    assert any(work.kind == "recomputed" for node in nodes for work in node.account.forwarded)
    asked = [(node.ids[len(ids) :], chosen(node)) for node in nodes]
    for node in (root, *nodes):
        await backend.cancel(node)
    idle = backend.memory().kv_idle
    found = await backend.rechoose(ids, asked, Lease(0))
    for (_, choices), again in zip(asked, found, strict=True):
        assert [one.id for one in again] == [choice.id for choice in choices] != []
        assert {one.margin for one in again} == {0.0}
    assert backend.memory().kv_idle <= idle, "nothing of it is kept"
    backend.runner.pool.check_integrity([])


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_no_rounding_gives_another_token_than_one_within_its_margin(temperature: float) -> None:
    generator = np.random.default_rng(1)
    flips = 0
    for _ in range(400):
        size = int(generator.integers(5, 60))
        logits = generator.normal(0, 2, size).astype(np.float32)
        sampler = Sampler(
            temperature, float(generator.choice([1, 0.9, 0.5])), int(generator.choice([0, 3])), 4
        )
        position, banned = int(generator.integers(99)), frozenset({0})
        told = choose(logits, sampler, position, 1, banned)
        rounded = logits + generator.uniform(-0.1, 0.1, size).astype(np.float32)
        other = choose(rounded, sampler, position, 1, banned)
        distance = margin(logits, Choice(position, other, sampler, 1, banned))
        assert distance <= 2 * 0.1 + 1e-6
        flips += other != told
        for token in range(1, size):
            assert (margin(logits, Choice(position, token, sampler, 1, banned)) > 0) == (token != told)
        assert margin(logits, Choice(position, 0, sampler, 1, banned)) == np.inf
    assert flips > 3
