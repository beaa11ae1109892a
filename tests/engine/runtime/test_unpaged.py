"""Families that cannot page write what transformers writes, by the same primitives; no prefix is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import STOCK_CACHE, prompt, reference

from engine.backend import Lease, Sampler
from engine.load.checkpoint import STOCK_CACHE_FAMILIES
from engine.load.errors import ModelError
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.runtime.runner import Row
from engine.runtime.scheduler import CHUNK
from engine.runtime.sequence import Sequence
from engine.runtime.step import Interrupted
from profiles.costs import kv_bytes_per_token, state_bytes
from profiles.detect import Settings, detect

CPU = Settings("cpu", "fp32", 1)
GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
WARM = Sampler(temperature=1, top_p=1, top_k=0, seed=7)
PROMPT = prompt(130)
NEW = 40
TOLERANCE = 2e-4

Checkpoint = Callable[[str], Path]
Load = Callable[[str], LocalBackend]
each_family = pytest.mark.parametrize("family", STOCK_CACHE)


@pytest.fixture(scope="module")
def theirs(checkpoint: Checkpoint) -> Callable[[str], tuple[list[int], np.ndarray]]:
    """Greedy tokens after the prompt by transformers' generate, and the logits of each."""
    made: dict[str, tuple[list[int], np.ndarray]] = {}

    def get(family: str) -> tuple[list[int], np.ndarray]:
        if family not in made:
            out = reference(checkpoint(family)).generate(
                torch.tensor([PROMPT]),
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                return_dict_in_generate=True,
                output_logits=True,
            )
            tokens = out.sequences[0, len(PROMPT) :].tolist()
            made[family] = tokens, torch.cat(out.logits).float().numpy()
        return made[family]

    return get


Theirs = Callable[[str], tuple[list[int], np.ndarray]]


@pytest.fixture
def whole(load: Load) -> Iterator[Load]:
    """A backend whose pool is empty again when the test is over."""
    used: list[LocalBackend] = []

    def get(family: str) -> LocalBackend:
        used.append(load(family))
        return used[-1]

    yield get
    for backend in used:
        backend.runner.pool.check_integrity([])
        assert backend.memory().kv_used == 0


def test_all_families_that_are_let_in_are_tested() -> None:
    assert set(STOCK_CACHE_FAMILIES) == set(STOCK_CACHE)


@each_family
@pytest.mark.parametrize("chunk", [len(PROMPT), 37, 2, 1])
def test_greedy_text_and_logits_equal_those_of_transformers(
    whole: Load, theirs: Theirs, family: str, chunk: int
) -> None:
    tokens, logits = theirs(family)
    assert len(set(tokens)) > 5
    backend = whole(family)
    sequence, rows = Sequence(backend.runner.pool), []
    for begin in range(0, len(PROMPT), chunk):
        backend.runner.forward(sequence, PROMPT[begin : begin + chunk])
    while len(rows) < NEW:
        rows.append(sequence.logits)
        backend.runner.forward(sequence, [int(rows[-1].argmax())])
    assert [int(row.argmax()) for row in rows] == tokens
    assert np.abs(np.stack(rows) - logits).max() < TOLERANCE
    sequence.release()


@each_family
async def test_forks_go_on_from_where_they_are_and_leave_each_other_alone(
    whole: Load, theirs: Theirs, family: str
) -> None:
    backend, (tokens, _) = whole(family), theirs(family)
    node = await backend.prefill(PROMPT, Lease(0))
    begun = await backend.extend(node, "answer", Lease(15), GREEDY)
    forks = await backend.fork(node, 2)
    strayed = await backend.extend(forks[0], "answer", Lease(20), WARM)
    went_on = await backend.extend(node, "answer", Lease(NEW - 15), GREEDY)
    [late] = await backend.fork(node, 1)
    same = await backend.extend(forks[1], "answer", Lease(NEW - 15), GREEDY)
    assert [*begun.ids, *went_on.ids] == [*begun.ids, *same.ids] == tokens
    assert list(strayed.ids) != tokens[15:35]
    assert late.ids == node.ids
    for it in (node, late, *forks):
        await backend.cancel(it)


@each_family
async def test_two_at_once_are_each_in_forwards_of_its_own(whole: Load, theirs: Theirs, family: str) -> None:
    backend, (tokens, _) = whole(family), theirs(family)
    before = backend.runner.forwarded_tokens
    nodes = await asyncio.gather(
        backend.prefill(PROMPT, Lease(0)), backend.prefill(prompt(3 * CHUNK // 2, 5), Lease(0))
    )
    texts = await asyncio.gather(
        *[
            backend.extend(node, "answer", Lease(NEW), sampler)
            for node, sampler in zip(nodes, (GREEDY, WARM), strict=True)
        ]
    )
    assert list(texts[0].ids) == tokens
    entries = [entry for node in nodes for entry in node.account.forwarded]
    assert {entry.share for entry in entries} == {1.0}
    assert sum(entry.tokens for entry in entries) == backend.runner.forwarded_tokens - before
    assert sum(entry.tokens for entry in entries) == sum(len(node.ids) - 1 for node in nodes)
    for node in nodes:
        await backend.cancel(node)


@each_family
async def test_who_gives_way_for_want_of_memory_is_computed_again_to_the_same_text(
    whole: Load, theirs: Theirs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    backend, (tokens, _) = whole(family), theirs(family)
    monkeypatch.setattr(backend.runner.pool, "pages", 5)  # each needs three, and its state
    first = await backend.prefill(PROMPT, Lease(0))
    second = await backend.prefill(PROMPT, Lease(0))
    found = await asyncio.gather(
        *[backend.extend(node, "answer", Lease(NEW), GREEDY) for node in (first, second)]
    )
    assert [list(extension.ids) for extension in found] == [tokens, tokens]
    recomputed = sum(
        entry.tokens
        for node in (first, second)
        for entry in node.account.forwarded
        if entry.kind == "recomputed"
    )
    assert recomputed >= len(PROMPT)
    assert any("pre-empted" in event for event in [*first.account.degradations, *second.account.degradations])
    [kept] = [node for node in (first, second) if node.table]
    [fork] = await backend.fork(kept, 1)
    assert not fork.table, "there was no room for a copy"
    again = await backend.extend(fork, "answer", Lease(4), GREEDY)
    assert again.ids == (await backend.extend(kept, "answer", Lease(4), GREEDY)).ids
    for node in (first, second, fork):
        await backend.cancel(node)


@each_family
def test_a_forward_that_is_given_up_or_fails_half_way_leaves_nothing_wrong_behind(
    whole: Load, theirs: Theirs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    backend, (_, logits) = whole(family), theirs(family)
    sequence, asked = Sequence(backend.runner.pool, ids=list(PROMPT)), 0

    def third_layer() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    backend.runner.forward(sequence, PROMPT[:50])
    with pytest.raises(Interrupted):
        backend.runner.run([Row(sequence, PROMPT[50:])], third_layer)
    assert (sequence.cached, sequence.table, sequence.seen) == (0, [], 50)
    backend.runner.pool.check_integrity([])

    backend.runner.forward(sequence, PROMPT[:50])
    layer = backend.runner._model.base_model.layers[2]

    def refuse(*_: object, **__: object) -> Any:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(layer, "forward", refuse)
        backend.runner.forward(sequence, PROMPT[50:])
    backend.runner.forward(sequence, PROMPT)
    assert np.abs(sequence.logits - logits[0]).max() < TOLERANCE
    sequence.release()


@each_family
async def test_an_allocation_that_fails_costs_time_and_no_token(
    whole: Load, theirs: Theirs, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    backend, (tokens, _) = whole(family), theirs(family)
    forward, calls = backend.runner._forward, 0

    def sometimes(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (1, 9):
            raise MemoryError
        return forward(*arguments)

    monkeypatch.setattr(backend.runner, "_forward", sometimes)
    node = await backend.prefill(PROMPT, Lease(0))
    assert list((await backend.extend(node, "answer", Lease(NEW), GREEDY)).ids) == tokens
    assert node.account.degradations
    await backend.cancel(node)


@pytest.mark.parametrize("family", ["llama", *STOCK_CACHE])
def test_nothing_is_guessed_that_could_not_be_taken_back(checkpoint: Checkpoint, family: str) -> None:
    backend = create(ModelSpec(model=str(checkpoint(family))), detect().profile, CPU)
    assert (backend.speculation is None) == (family in STOCK_CACHE)
    backend.close()


@each_family
async def test_scores_and_probes_leave_the_node_as_it_is(whole: Load, theirs: Theirs, family: str) -> None:
    backend, (tokens, logits) = whole(family), theirs(family)
    node = await backend.prefill(PROMPT, Lease(0))
    scores = await backend.score(node, tokens)
    expected = torch.log_softmax(torch.from_numpy(logits), -1)[range(NEW), tokens]
    assert np.abs(np.array(scores) - expected.numpy()).max() < 1e-3
    probe = await backend.probe(node, tokens[:6], 5, GREEDY)
    assert probe is not None and list(probe.ids) == tokens[6:11]
    assert list((await backend.extend(node, "answer", Lease(NEW), GREEDY)).ids) == tokens
    await backend.cancel(node)


@each_family
async def test_memory_is_what_the_caches_take_and_nothing_is_kept(whole: Load, family: str) -> None:
    backend = whole(family)
    node = await backend.prefill(PROMPT, Lease(0))
    of_one = len(PROMPT) * kv_bytes_per_token(backend.shape) + state_bytes(backend.shape)
    assert backend.memory().kv_used == backend.memory().kv_allocated == of_one
    pool = backend.runner.pool
    pages = pool.pages - pool.available
    forks = await backend.fork(node, 2)
    assert backend.memory().kv_used == 3 * of_one, "forks are copies"
    assert pages == -(-len(PROMPT) // PAGE) + (state_bytes(backend.shape) > 0)
    assert pool.pages - pool.available == 3 * pages
    assert backend.capacity(len(PROMPT)) == pool.pages // pages
    for it in (node, *forks):
        await backend.cancel(it)
    again = await backend.prefill(PROMPT, Lease(0))
    assert again.account.cached == 0 and backend.memory().kv_idle == 0
    await backend.cancel(again)
    assert "stock-cache" in backend.kernel_class


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [({"kv": "int8"}, "int8"), ({"draft": "exit:1"}, "drafts")],
)
def test_what_needs_pages_is_refused_in_one_line(
    checkpoint: Checkpoint, asked: dict[str, Any], lacking: str
) -> None:
    with pytest.raises(ModelError, match=lacking) as refused:
        create(ModelSpec(model=str(checkpoint("lfm2")), **asked), detect().profile, CPU)
    assert "transformers' own cache" in refused.value.message and refused.value.hint


def test_bits_are_not_promised_where_they_depend_on_the_path(checkpoint: Checkpoint) -> None:
    spec = ModelSpec(model=str(checkpoint("lfm2")), deterministic=True)
    backend = create(spec, detect().profile, CPU)
    assert backend.kernel_class.endswith("fp32-stock-cache-1t")
    backend.close()


def test_a_draft_has_to_take_back_what_was_wrong(checkpoint: Checkpoint) -> None:
    spec = ModelSpec(model=str(checkpoint("llama")), draft=str(checkpoint("lfm2")))
    with pytest.raises(ModelError, match="take back"):
        create(spec, detect().profile, CPU)
