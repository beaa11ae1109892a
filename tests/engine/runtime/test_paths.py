"""Whatever way a token takes through the engine, it gets the logits that transformers gives it.

Each family's text is made on every path there is: beside strangers, forked, over a shared prefix, from the
cache, pre-empted, probed and scored. transformers is then given the text, and must predict it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from forwards import Forwards, held, listen, spent
from random_checkpoint import FAMILIES, WINDOW, prompt

from engine.backend import Lease, Node, Sampler
from engine.nn import attention
from engine.runtime import scheduler, step
from engine.runtime.ladder import Ladder
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.runner import Row, Runner
from engine.runtime.sequence import Sequence

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
WARM = Sampler(temperature=1, top_p=0.9, top_k=40, seed=7)
PROMPT = prompt(2 * PAGE + WINDOW + 30, seed=21)
NEW = 20
"""Tokens: decoding crosses a page's border."""
TOLERANCE = 2e-4
SHARING = {"llama", "qwen2", "qwen3", "qwen3_moe", "olmo2", "gemma3_text"}
"""Families with layers whose attention reads what several sequences share only once."""

Small = Callable[..., LocalBackend]
Predicted = Callable[[str, list[int]], np.ndarray]


@pytest.fixture
def differs(predicted: Predicted) -> Callable[[str, Forwards, Node, int], bool]:
    """Whether a node's ids, from the given one on, or any of its logits are other than transformers'."""

    def compare(family: str, heard: Forwards, node: Node, greedy_from: int) -> bool:
        assert isinstance(node, Sequence)
        rows = predicted(family, node.ids)
        chosen = np.arange(greedy_from, len(node.ids))
        best = rows[chosen - 1].max(-1)
        behind = best - rows[chosen - 1, np.array(node.ids)[chosen]] if len(chosen) else np.zeros(1)
        known = heard.logits[node.born]
        distance = max(np.abs(rows[after - 1] - logits).max() for after, logits in known.items())
        return bool(behind.max() > TOLERANCE or distance > TOLERANCE)

    return compare


Differs = Callable[[str, Forwards, Node, int], bool]


async def prefilled(backend: LocalBackend, ids: list[int] = PROMPT) -> Node:
    return await backend.prefill(ids, Lease(0))


async def told(backend: LocalBackend, node: Node, count: int = NEW, sampler: Sampler = GREEDY) -> list[int]:
    extension = await backend.extend(node, "answer", Lease(count), sampler)
    assert (extension.reason, len(extension.ids)) == ("limit", count)
    return list(extension.ids)


async def together(backend: LocalBackend, nodes: list[Node], sampler: Sampler = GREEDY) -> list[list[int]]:
    """What the nodes go on with, all in the same forwards."""
    async with held(backend):
        tasks = [asyncio.create_task(told(backend, node, sampler=sampler)) for node in nodes]
    return await asyncio.gather(*tasks)


async def end(backend: LocalBackend, heard: Forwards, nodes: list[Node]) -> None:
    """Cancel all; the books were right after each forward, and every token is in one account, once."""
    for node in nodes:
        await backend.cancel(node)
    backend.runner.pool.check_integrity([])
    assert not heard.broken
    assert spent([node.account for node in nodes]) == backend.runner.forwarded_tokens


async def beside_strangers(backend: LocalBackend, heard: Forwards) -> list[tuple[Node, int]]:
    """A node found in the cache, among others of other lengths, phases and samplers."""
    lengths = (2, 33, PAGE)
    gone = await prefilled(backend)
    await backend.cancel(gone)
    node, *strangers = await asyncio.gather(
        prefilled(backend), *[prefilled(backend, prompt(length, seed=length)) for length in lengths]
    )
    async with held(backend):
        told_ = asyncio.create_task(told(backend, node))
        others = [
            asyncio.create_task(backend.extend(strangers[0], "thinking", Lease(30), WARM)),
            asyncio.create_task(backend.force(strangers[1], "thinking", prompt(20, seed=3))),
            asyncio.create_task(told(backend, strangers[2], 3)),
            asyncio.create_task(prefilled(backend, prompt(300, seed=5))),
            asyncio.create_task(prefilled(backend, [*PROMPT[:-1], 5])),
        ]
    *_, long, cached = await asyncio.gather(told_, *others)
    assert isinstance(long, Sequence) and isinstance(cached, Sequence)
    assert max(len(rows) for rows in heard.rows) >= 5
    assert heard.together(node, strangers[0]) >= NEW - 1
    assert heard.together(node, strangers[0], long) >= 4, "a prompt in chunks is beside answers"
    assert node.account.cached == cached.account.cached == len(PROMPT) - 1
    await together(backend, [cached, long])
    begins = [len(PROMPT), len(strangers[0].ids), 53, PAGE, 300, len(PROMPT), len(PROMPT)]
    return list(zip([node, *strangers, long, cached, gone], begins, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
async def test_beside_strangers(
    small: Small, differs: Differs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(scheduler, "CHUNK", 48)
    backend = small(40, family)
    heard = listen(backend, monkeypatch)
    nodes = await beside_strangers(backend, heard)
    assert not any(differs(family, heard, node, begin) for node, begin in nodes)
    await end(backend, heard, [node for node, _ in nodes])


async def forked(backend: LocalBackend) -> list[Node]:
    """Forks of every age, all extended at once: of a prompt, of a text under way, at a border, of forks."""
    node = await prefilled(backend)
    family = [node, *await backend.fork(node, 2)]
    assert isinstance(node, Sequence)

    async def fork_on_the_way(count: int) -> None:
        begun, lease = asyncio.Event(), Lease(count)
        task = asyncio.create_task(
            backend.extend(node, "answer", lease, GREEDY, on_tokens=lambda _: begun.set())
        )
        await begun.wait()
        family.extend(await backend.fork(node, 1))
        await task

    await fork_on_the_way(4)
    assert node.pending
    family.extend(await backend.fork(node, 1))
    family.extend(await backend.fork(family[1], 1))
    border = -(-len(node.ids) // PAGE) * PAGE - len(node.ids)
    await told(backend, node, border + 1)
    assert (node.cached, len(node.ids)) == (3 * PAGE, 3 * PAGE + 1)
    children = await backend.fork(node, 2)
    assert isinstance(children[0], Sequence)
    assert children[0].table == node.table, "all its pages are full: none was copied"
    family += [*children, *await backend.fork(children[0], 1)]
    await together(backend, family)
    return family


@pytest.mark.parametrize("family", FAMILIES)
async def test_forked_mid_way(
    small: Small, differs: Differs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    backend = small(40, family)
    heard = listen(backend, monkeypatch)
    nodes = await forked(backend)
    assert heard.together(*nodes) >= NEW - 1
    assert not any(differs(family, heard, node, len(PROMPT)) for node in nodes)
    first = nodes[0].ids[len(PROMPT) :]
    for node in nodes:
        text = node.ids[len(PROMPT) :]
        assert text[: len(first)] == first[: len(text)]
    await end(backend, heard, nodes)


async def over_a_shared_prefix(backend: LocalBackend) -> list[Node]:
    """Forks that tell different things after the same three pages, at once."""
    node = await prefilled(backend)
    forks = await backend.fork(node, 4)
    for seed, fork in enumerate(forks):
        await backend.force(fork, "answer", prompt(3 + 25 * seed, seed))
    await together(backend, forks)
    return [*forks, node]


@pytest.mark.parametrize("family", FAMILIES)
async def test_over_a_shared_prefix(
    small: Small, differs: Differs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    taken: list[tuple[int, int]] = []
    shared = attention._shared_prefix

    def spied(group: step.Shared, *rest: object) -> None:
        taken.append((len(group.rows), group.keys))
        shared(group, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "_shared_prefix", spied)
    backend = small(40, family)
    heard = listen(backend, monkeypatch)
    nodes = await over_a_shared_prefix(backend)
    assert ((4, 2 * PAGE) in taken) == (family in SHARING)
    begins = [*[len(PROMPT) + 3 + 25 * seed for seed in range(4)], len(PROMPT)]
    assert not any(differs(family, heard, node, begin) for node, begin in zip(nodes, begins, strict=True))
    await end(backend, heard, nodes)


async def pre_empted(backend: LocalBackend) -> list[Node]:
    """Three answers at once, in a pool with room for two, and not for their ends."""
    prompts = [PROMPT, prompt(2 * PAGE + 50, seed=8), prompt(PAGE - 5, seed=9)]
    nodes = [await prefilled(backend, ids) for ids in prompts]
    await together(backend, nodes)
    return nodes


@pytest.mark.parametrize("family", FAMILIES)
async def test_pre_empted_and_computed_again(
    small: Small, differs: Differs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    backend = small(6, family)
    heard = listen(backend, monkeypatch)
    nodes = await pre_empted(backend)
    kinds = [{entry.kind for entry in node.account.forwarded} for node in nodes]
    assert "recomputed" not in kinds[0] and all("recomputed" in later for later in kinds[1:])
    assert any("pre-empted" in event for event in nodes[2].account.degradations)
    begins = [len(node.ids) - NEW for node in nodes]
    assert not any(differs(family, heard, node, begin) for node, begin in zip(nodes, begins, strict=True))
    await end(backend, heard, nodes)


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64) - rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


@pytest.mark.parametrize("family", FAMILIES)
async def test_probed_and_scored(
    small: Small, predicted: Predicted, differs: Differs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Beside the answer under way, and with it at rest: the node does not notice."""
    backend = small(40, family)
    heard = listen(backend, monkeypatch)
    node = await prefilled(backend)
    forced, scored = prompt(7, seed=2), prompt(70, seed=4)

    async def aside() -> None:
        before = list(node.ids)
        probe = await backend.probe(node, forced, 6, GREEDY)
        assert probe is not None and len(probe.ids) == len(probe.watched) == 6
        rows = predicted(family, [*before, *forced, *probe.ids])
        assert probe.ids == tuple(rows[len(before) + len(forced) - 1 : -1].argmax(-1).tolist())
        scores = await backend.score(node, scored)
        rows = log_softmax(predicted(family, [*before, *scored]))[len(before) - 1 : -1]
        assert np.abs(rows[np.arange(len(scored)), scored] - scores).max() < TOLERANCE
        assert node.ids == before

    await aside()
    await told(backend, node, 5)
    assert node.pending
    await aside()
    begun = asyncio.Event()
    running = asyncio.create_task(
        backend.extend(node, "answer", Lease(NEW), GREEDY, on_tokens=lambda _: begun.set())
    )
    await begun.wait()
    found = await asyncio.gather(backend.probe(node, forced, 6, GREEDY), backend.score(node, scored))
    assert found[0] is not None and len(found[1]) == len(scored)
    await running
    assert not differs(family, heard, node, len(PROMPT))
    await end(backend, heard, [node])


# Samples: their randomness follows from the seed, the path and the position, and from nothing else.


async def second_fork(backend: LocalBackend, way: str) -> list[int]:
    """What the second fork of a node says after the prompt and four greedy tokens."""
    node = await prefilled(backend)
    early = [] if way == "forked late" else await backend.fork(node, 2)
    beginning = await told(backend, node, 4)
    for fork in early:
        await backend.force(fork, "answer", beginning)
    if way == "after probes":
        await backend.probe(node, [5], 3, WARM)
        await backend.score(node, [5])
    nodes = [node, *(early or await backend.fork(node, 2))]
    if way in ("beside its siblings", "pre-empted"):
        text = (await together(backend, nodes, WARM))[-1]
    else:
        text = await told(backend, nodes[-1], sampler=WARM)
    recomputed = any(entry.kind == "recomputed" for entry in nodes[-1].account.forwarded)
    assert recomputed == (way == "pre-empted")
    for each in nodes:
        await backend.cancel(each)
    return text


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
async def test_a_fork_samples_the_same_whoever_runs_with_it_and_whenever_it_is_made(
    small: Small, family: str
) -> None:
    expected = await second_fork(small(40, family), "alone")
    for way in ("beside its siblings", "forked late", "after probes"):
        assert await second_fork(small(40, family), way) == expected, way
    assert await second_fork(small(5, family), "pre-empted") == expected
    node = await prefilled(backend := small(40, family))
    [first] = await backend.fork(node, 1)
    await backend.force(first, "answer", await told(backend, node, 4))
    assert await told(backend, first, sampler=WARM) != expected, "each fork has a path of its own"


# The comparisons are worth something only if they fail when a path goes wrong.


def shift_the_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each tail behind a shared prefix one page early."""
    grouped = step.Step._grouped

    def wrong(self: step.Step) -> tuple[list[step.Shared], list[int]]:
        groups, rest = grouped(self)
        for group in groups:
            for row, tail in zip(group.rows, group.tails, strict=True):
                whole = self.segments[self.begins().index(row)]
                pages = group.keys // PAGE - 1
                tail.__init__(self.pool, whole.table[pages:], whole.start - pages * PAGE, 1)  # type: ignore[misc]
        return groups, rest

    monkeypatch.setattr(step.Step, "_grouped", wrong)


def weigh_both_parts_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Join prefix and tail without regard to their sums."""
    with_sums = attention._with_sums
    monkeypatch.setattr(
        attention, "_with_sums", lambda *given: (lambda out, sums: (out, sums * 0))(*with_sums(*given))
    )


def count_positions_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give packed rows positions as if they were one sequence."""

    def wrong(self: step.Step, device: torch.device) -> torch.Tensor:
        start = self.segments[0].start
        return torch.arange(start, start + self.length, device=device)

    monkeypatch.setattr(step.Step, "positions", wrong)


def hand_logits_to_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the rows of a forward's logits in another order."""
    call = Runner.run

    def wrong(self: Runner, rows: list[Row], interrupted: Any = None) -> Any:
        forward = self._forward
        self._forward = lambda *given: None if (out := forward(*given)) is None else out.roll(1, 0)
        try:
            return call(self, rows, interrupted)
        finally:
            self._forward = forward

    monkeypatch.setattr(Runner, "run", wrong)


def copy_another_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin the page in which a fork goes on with what lies elsewhere."""
    copy = PagePool._copy
    monkeypatch.setattr(PagePool, "_copy", lambda pool, page, to: copy(pool, 0, to))


def find_too_much_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pre-emption, hold more to be there than is."""
    readopt = Sequence.readopt

    def wrong(self: Sequence) -> None:
        readopt(self)
        self.cached = min(self.seen, self.cached + 20)

    monkeypatch.setattr(Sequence, "readopt", wrong)


def keep_rows_of_those_who_gave_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave sequences in a forward that were pre-empted for it."""
    reserve = Ladder._reserve

    def wrong(self: Ladder, work: Any, row: Row, works: Any, kept: Any, given_way: Any) -> Row | None:
        return reserve(self, work, row, works, kept, set())

    monkeypatch.setattr(Ladder, "_reserve", wrong)


BREAKS = [
    (count_positions_through, "strangers"),
    (hand_logits_to_neighbours, "strangers"),
    (copy_another_tail, "forks"),
    (shift_the_tails, "shared"),
    (weigh_both_parts_alike, "shared"),
    (find_too_much_again, "pre-empted"),
    (keep_rows_of_those_who_gave_way, "pre-empted"),
]


@pytest.mark.parametrize(("mutate", "path"), BREAKS)
@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
async def test_the_comparison_notices_a_path_gone_wrong(
    small: Small,
    differs: Differs,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    mutate: Callable[[pytest.MonkeyPatch], None],
    path: str,
) -> None:
    monkeypatch.setattr(scheduler, "CHUNK", 48 if path == "strangers" else 512)
    mutate(monkeypatch)
    backend = small(6 if path == "pre-empted" else 40, family)
    heard = listen(backend, monkeypatch)
    match path:
        case "strangers":
            pairs = await beside_strangers(backend, heard)
        case "forks":
            pairs = [(node, len(PROMPT)) for node in await forked(backend)]
        case "shared":
            pairs = [(node, len(node.ids) - NEW) for node in (await over_a_shared_prefix(backend))[:-1]]
        case _:
            pairs = [(node, len(node.ids) - NEW) for node in await pre_empted(backend)]
    assert any(differs(family, heard, node, begin) for node, begin in pairs)
    for node, _ in pairs:
        await backend.cancel(node)
