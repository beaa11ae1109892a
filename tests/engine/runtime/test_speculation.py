"""Guessing ahead changes how many forwards a text takes, and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import FAMILIES, VOCABULARY, WINDOW, prompt, save_checkpoint

from engine.backend import Extension, Forwarded, Lease, Node, Sampler, WindDown
from engine.load.errors import ModelError
from engine.protocol import ModelSpec
from engine.runtime import lookup
from engine.runtime.create import create
from engine.runtime.draft import CHUNK, DraftModel
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.sequence import Sequence as HeldSequence
from engine.runtime.speculation import COUNTS, RETRY, Speculation
from profiles.detect import Settings, detect

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
WARM = Sampler(temperature=1, top_p=0.95, top_k=50, seed=3)
CPU = Settings("cpu", "fp32", 1)
PROMPT = prompt(2 * PAGE - 20)
NEW = 90  # crosses two borders of pages
WINDOWED = [family for family in FAMILIES if "sliding_window" in FAMILIES[family]]

Load = Callable[..., LocalBackend]


@pytest.fixture(scope="module")
def opened(checkpoint: Callable[[str], Path]) -> Iterator[Load]:
    """A backend of a family with drafts as asked, loaded once by the real loader."""
    loaded: dict[Any, LocalBackend] = {}

    def get(family: str = "qwen3", draft: str | None = "off", **settings: Any) -> LocalBackend:
        key = (family, draft, *settings.items())
        if key not in loaded:
            spec = ModelSpec(model=str(checkpoint(family)), draft=draft, **settings)
            loaded[key] = create(spec, detect().profile, CPU)
        return loaded[key]

    yield get
    for backend in loaded.values():
        backend.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess as much as can be guessed, whatever the clock says of its worth."""
    monkeypatch.setattr(Speculation, "_best", lambda _self, _others, _chance, most, _each: (most, 1.0))


class Oracle:
    """Knows the text, and guesses wrongly at each position that `wrong` divides."""

    def __init__(self, text: Sequence[int], wrong: int = 0) -> None:
        self.proposed = self.right = 0
        self._text = [*text[: len(PROMPT)], *text[len(PROMPT) :]]
        self._wrong = wrong

    def propose(self, sequence: HeldSequence, most: int, _likely: object) -> list[int]:
        known = len(sequence.ids)
        guess = self._text[known : known + most]
        if self._wrong:
            guess = [token ^ (not (known + at) % self._wrong) for at, token in enumerate(guess)]
        self.proposed += len(guess)
        return guess

    def verified(self, _sequence: HeldSequence, _forward: Forwarded) -> None: ...

    def forget(self, _sequence: HeldSequence) -> None: ...


@asynccontextmanager
async def prefilled(backend: LocalBackend, ids: list[int] = PROMPT) -> AsyncIterator[Node]:
    """A node with a prompt, released at the end; the pool must then be whole and empty."""
    node = await backend.prefill(ids, Lease(0))
    try:
        yield node
    finally:
        await backend.cancel(node)
        backend.runner.pool.check_integrity([])


@dataclass(frozen=True)
class Written:
    """What an extension left."""

    extension: Extension
    ids: list[int]
    logits: np.ndarray
    kinds: dict[str, int]
    accepted: int
    reach: int
    """The most tokens that a forward ended at."""


async def write(
    backend: LocalBackend,
    lease: Lease,
    sampler: Sampler = GREEDY,
    oracle: Oracle | None = None,
    ids: list[int] = PROMPT,
    **rules: Any,
) -> Written:
    """Extend a prompt, with guesses by `oracle` if there is one; the account must agree with the runner."""
    before = backend.runner.forwarded_tokens
    own = backend.speculation
    async with prefilled(backend, ids) as node:
        try:
            backend.speculation = oracle or own  # type: ignore[assignment]
            extension = await backend.extend(node, "thinking", lease, sampler, **rules)
        finally:
            backend.speculation = own
        held = node.ids
        kinds: Counter[str] = Counter()
        for entry in node.account.forwarded:
            kinds[entry.kind] += entry.tokens
        assert sum(kinds.values()) == backend.runner.forwarded_tokens - before
        assert kinds["thinking"] == len(held) - len(ids) - (node.pending is not None)
        assert node.account.drafts_rejected == kinds["draft_rejected"]
        assert node.account.drafts_accepted == sum(entry.accepted for entry in node.account.forwarded)
        assert lease.used == len(extension.ids) + (extension.stop_id not in (None, *extension.ids[-1:]))
        assert node.cached == len(held) - (node.pending is not None)  # type: ignore[attr-defined]
        assert len(node.table) == -(-node.cached // PAGE)  # type: ignore[attr-defined]
        logits: np.ndarray = node.logits  # type: ignore[attr-defined]
        reach = max(entry.context + entry.tokens for entry in node.account.forwarded)
        return Written(extension, list(held), logits, kinds, node.account.drafts_accepted, reach)


async def known(backend: LocalBackend, sampler: Sampler = GREEDY, count: int = NEW + 20) -> list[int]:
    """Prompt and text, token by token."""
    return (await write(backend, Lease(count), sampler)).ids


# What a verified forward leaves, whoever guessed.


@pytest.mark.parametrize("wrong", [0, 3])
@pytest.mark.parametrize("sampler", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_guesses_right_or_wrong_leave_the_text_as_it_is(
    opened: Load, family: str, sampler: Sampler, wrong: int
) -> None:
    backend = opened(family)
    assert len(PROMPT) > 2 * WINDOW
    plain = await write(backend, Lease(NEW), sampler)
    assert len(set(plain.ids)) > 5
    guessed = await write(backend, Lease(NEW), sampler, Oracle(plain.ids, wrong))
    assert guessed.extension == plain.extension and guessed.ids == plain.ids
    assert np.abs(guessed.logits - plain.logits).max() < 2e-4
    assert guessed.accepted > NEW // 3
    assert bool(wrong) == bool(guessed.kinds["draft_rejected"])


@pytest.mark.parametrize("kv", ["model", "int8"])
@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma2"])
async def test_with_deterministic_not_a_bit_changes(opened: Load, family: str, kv: str) -> None:
    backend = opened(family, deterministic=True, kv=kv)
    plain = await write(backend, Lease(NEW), WARM)
    guessed = await write(backend, Lease(NEW), WARM, Oracle(plain.ids, wrong=5))
    assert guessed.ids == plain.ids and guessed.accepted
    assert np.array_equal(guessed.logits, plain.logits)


@pytest.mark.parametrize("wrong", [0, 4])
async def test_a_stop_id_anywhere_in_a_run_ends_it_there(opened: Load, wrong: int) -> None:
    backend = opened()
    text = await known(backend, WARM)
    for stop in dict.fromkeys(text[len(PROMPT) : len(PROMPT) + 20]):
        for rule in ("stop", "keep"):
            rules = {rule: frozenset({stop})}
            plain = await write(backend, Lease(NEW), WARM, **rules)
            guessed = await write(backend, Lease(NEW), WARM, Oracle(text, wrong), **rules)
            assert guessed.extension == plain.extension and guessed.ids == plain.ids
            assert plain.extension.reason == "stop" and plain.extension.stop_id == stop
            assert guessed.kinds["thinking"] == plain.kinds["thinking"], "what ends it is fed back by neither"


@pytest.mark.parametrize("wrong", [0, 4])
@pytest.mark.parametrize("limit", range(1, 20))
async def test_a_lease_holds_inside_a_run(opened: Load, limit: int, wrong: int) -> None:
    backend = opened()
    text = await known(backend)
    guessed = await write(backend, Lease(limit), oracle=Oracle(text, wrong))
    assert guessed.ids == text[: len(PROMPT) + limit] and guessed.extension.reason == "limit"
    assert guessed.reach < len(PROMPT) + limit, "nothing beyond was guessed"


class Moved(Lease):
    """A lease that its owner changes at the moment when so many tokens are used."""

    def __init__(self, limit: int, at: int, name: str, value: int) -> None:
        self._change = (at, name, value)
        super().__init__(limit)

    def __setattr__(self, attribute: str, value: Any) -> None:
        super().__setattr__(attribute, value)
        if attribute == "used" and value == self._change[0]:
            super().__setattr__(self._change[1], self._change[2])


@pytest.mark.parametrize("at", range(1, 20))
async def test_a_lease_that_moves_during_a_run_is_heeded_in_it(opened: Load, at: int) -> None:
    backend = opened()
    text = await known(backend)
    lowered = await write(backend, Moved(NEW, at, "limit", at), oracle=Oracle(text))
    assert lowered.ids == text[: len(PROMPT) + at] and lowered.extension.reason == "limit"
    ended = await write(backend, Moved(NEW, at, "ended", True), oracle=Oracle(text))
    assert ended.ids == text[: len(PROMPT) + at] and ended.extension.reason == "ended"
    raised = await write(backend, Moved(at, at, "limit", at + 9), oracle=Oracle(text))
    assert raised.ids == text[: len(PROMPT) + at + 9] and raised.extension.reason == "limit"


async def test_an_extension_goes_on_from_where_a_run_was_cut(opened: Load) -> None:
    backend = opened()
    text = await known(backend, WARM)
    backend.speculation = Oracle(text, wrong=6)  # type: ignore[assignment]
    async with prefilled(backend) as node:
        for part in (1, 12, 5, 17, 2):
            lease = Moved(part + 9, part, "limit", part)
            assert len((await backend.extend(node, "answer", lease, WARM)).ids) == part
        await backend.force(node, "answer", [5, 6, 7])
        assert node.ids == [*text[: len(PROMPT) + 37], 5, 6, 7]
    backend.speculation = None


async def test_what_was_guessed_has_the_kind_of_the_passage_that_it_is_in(opened: Load) -> None:
    """A thought's last id is forwarded together with the answer's first ones."""
    backend = opened()
    text = await known(backend)
    kinds = []
    for oracle in (None, Oracle(text), Oracle(text, wrong=3)):
        backend.speculation = oracle  # type: ignore[assignment]
        async with prefilled(backend) as node:
            await backend.extend(node, "thinking", Lease(20), GREEDY)
            await backend.extend(node, "answer", Lease(20), GREEDY)
            counts: Counter[str] = Counter()
            for entry in node.account.forwarded:
                counts[entry.kind] += entry.tokens
                assert entry.kind not in ("thinking", "answer") or entry.phase == entry.kind
        del counts["draft_rejected"], counts["prefilled"]
        kinds.append(counts)
    backend.speculation = None
    assert kinds[0] == kinds[1] == kinds[2] == {"thinking": 20, "answer": 19}


@pytest.mark.parametrize("strength", [1.0, 4.0, 1e4])
async def test_a_thought_winds_down_at_the_same_token(opened: Load, strength: float) -> None:
    backend = opened()
    text = await known(backend, WARM)
    ends = frozenset(text[len(PROMPT) + 3 :: 4])
    for soft, grace in ((0.3, 2.0), (0.5, 0.8), (1.0, 0.6)):
        wind_down = WindDown(token=2, sentence_ends=ends, soft=soft, grace=grace, strength=strength)
        rules = {"wind_down": wind_down, "keep": frozenset({2})}
        plain = await write(backend, Lease(40), WARM, **rules)
        guessed = await write(backend, Lease(40), WARM, Oracle(text), **rules)
        assert guessed.extension == plain.extension and guessed.ids == plain.ids
        assert guessed.accepted


async def test_a_guess_that_is_banned_is_not_taken(opened: Load) -> None:
    backend = opened()
    text = await known(backend)
    at = next(at for at in range(len(PROMPT) + 5, len(text)) if text[at] not in text[len(PROMPT) : at])
    plain = await write(backend, Lease(30), banned=frozenset({text[at]}))
    assert plain.ids[:at] == text[:at] and plain.ids[at] != text[at]
    guessed = await write(backend, Lease(30), oracle=Oracle(text), banned=frozenset({text[at]}))
    assert guessed.ids == plain.ids
    assert guessed.accepted == at - len(PROMPT) - 1, (
        "all before it, but the first, which no forward was needed for"
    )


async def test_the_context_ends_a_run(opened: Load) -> None:
    backend = opened()
    context = backend.info.context
    ids = prompt(context - 6)
    text = (await write(backend, Lease(20), ids=ids)).ids
    guessed = await write(backend, Lease(20), oracle=Oracle([*text, *text]), ids=ids)
    assert guessed.ids == text and len(text) == context and guessed.extension.reason == "context"
    assert guessed.accepted


async def test_each_token_of_a_run_is_watched(opened: Load) -> None:
    backend = opened()
    plain = await write(backend, Lease(30), WARM, watch=True)
    guessed = await write(backend, Lease(30), WARM, Oracle(plain.ids, wrong=4), watch=True)
    assert len(guessed.extension.watched) == 30
    for ours, theirs in zip(guessed.extension.watched, plain.extension.watched, strict=True):
        assert ours.top == pytest.approx(theirs.top, abs=2e-4)


async def test_a_fork_taken_while_guesses_are_verified_goes_on_alike(opened: Load) -> None:
    backend = opened()
    text = await known(backend)
    backend.speculation = Oracle(text, wrong=5)  # type: ignore[assignment]
    async with prefilled(backend) as node:
        running = asyncio.create_task(backend.extend(node, "answer", Lease(NEW), GREEDY))
        forks = []
        while not running.done() and len(forks) < 12:
            forks += await backend.fork(node, 1)
            await asyncio.sleep(0.004)
        await running
        lengths = {len(fork.ids) for fork in forks}
        for fork in forks:
            await backend.extend(fork, "answer", Lease(len(PROMPT) + NEW - len(fork.ids)), GREEDY)
            assert fork.ids == node.ids == text[: len(PROMPT) + NEW]
            await backend.cancel(fork)
        assert len(lengths) > 2, "they were taken at several moments"
    backend.speculation = None


async def test_sequences_that_share_forwards_each_write_their_own_text(opened: Load) -> None:
    backend = opened()
    prompts = [prompt(40 + 30 * seed, seed) for seed in range(4)]
    texts = [(await write(backend, Lease(NEW), WARM, ids=ids)).ids for ids in prompts]

    class Knowing(Oracle):
        def propose(self, sequence: HeldSequence, most: int, likely: object) -> list[int]:
            self._text = next(text for text in texts if text[:40] == sequence.ids[:40])
            return super().propose(sequence, most, likely)

    before = backend.runner.forwarded_tokens
    backend.speculation = Knowing([], wrong=3)  # type: ignore[assignment]
    nodes = [await backend.prefill(ids, Lease(0)) for ids in prompts]
    await asyncio.gather(*[backend.extend(node, "answer", Lease(NEW), WARM) for node in nodes])
    backend.speculation = None
    assert [node.ids for node in nodes] == texts
    entries = [entry for node in nodes for entry in node.account.forwarded]
    assert sum(entry.tokens for entry in entries) == backend.runner.forwarded_tokens - before
    assert any(entry.share < 1 and entry.accepted for entry in entries)
    for node in nodes:
        assert node.account.drafts_accepted > NEW // 4
        await backend.cancel(node)
    backend.runner.pool.check_integrity([])


async def test_nobody_gives_way_to_a_guess(opened: Load) -> None:
    """With memory for so many tokens, the text is as long with guesses as without."""
    backend = opened()
    text = await known(backend)
    pool = backend.runner.pool
    for free in (2, 3):
        others: list[int] = []
        pool.grow(others, pool.pages - free)
        endings = []
        for oracle in (None, Oracle(text), Oracle(text, wrong=2)):
            node = await backend.prefill(PROMPT, Lease(0))
            resting = await backend.prefill(prompt(5, 9), Lease(0)) if free == 3 else None
            backend.speculation = oracle  # type: ignore[assignment]
            extension = await backend.extend(node, "answer", Lease(NEW), GREEDY)
            backend.speculation = None
            endings.append((extension.ids, extension.reason, node.account.degradations))
            if resting is not None:
                assert not resting.account.degradations or oracle is None or endings[-1] == endings[0]
                await backend.cancel(resting)
            await backend.cancel(node)
        assert endings[0] == endings[1] == endings[2]
        pool.release(others)
        pool.check_integrity([])


async def test_an_allocation_that_fails_with_guesses_is_tried_without(
    opened: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened()
    text = await known(backend)
    forward = backend.runner._forward

    def small(ids: Sequence[int], step: Any, logits_of: Sequence[int]) -> Any:
        if len(logits_of) > 1:
            raise MemoryError("cannot allocate memory")
        return forward(ids, step, logits_of)

    monkeypatch.setattr(backend.runner, "_forward", small)
    guessed = await write(backend, Lease(30), oracle=Oracle(text))
    assert guessed.ids == text[: len(PROMPT) + 30] and guessed.accepted == 0


# Who guesses: the text itself.


def test_what_is_looked_up_followed_the_longest_agreement_the_latest_of_equals() -> None:
    ids = [7, 1, 2, 3, 4, 9, 5, 2, 3, 6, 8, 2, 3]
    assert lookup.Lookup().guess(ids, 3) == ([6, 8, 2], 2), "the latest of equals"
    assert lookup.Lookup().guess([*ids, 4, 0, 1, 2, 3], 2) == ([4, 9], 3), "the longest"
    assert lookup.Lookup().guess([*ids, 99], 3) == lookup.NOTHING
    assert lookup.Lookup().guess([1], 3) == lookup.Lookup().guess([], 3) == lookup.NOTHING


def test_a_period_goes_on_where_a_whole_one_has_been_seen() -> None:
    assert lookup.Lookup().guess([1, 2, 3, 1, 2, 3], 7).ids == [1, 2, 3, 1, 2, 3, 1]
    assert lookup.Lookup().guess([1, 2, 3, 4, 1, 2], 7).ids == [3, 4, 1, 2]
    assert lookup.Lookup().guess([5, 5, 5], 4).ids == [5, 5, 5, 5]


def test_an_index_that_grows_finds_what_a_new_one_finds() -> None:
    ids = [token % 5 for token in prompt(400, seed=4)]
    grown, end = lookup.Lookup(), 0
    for step in [1, 3, 60, *[2] * 100, *[1] * 100]:
        end += step
        assert grown.guess(ids[:end], 6) == lookup.Lookup().guess(ids[:end], 6)


@pytest.mark.parametrize("sampler", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["qwen3", *WINDOWED])
async def test_looking_up_writes_the_same_text(
    opened: Load, eager: None, family: str, sampler: Sampler
) -> None:
    words = range(40, 48)  # with so few, all has been said before
    rules = {"banned": frozenset(range(VOCABULARY)) - frozenset(words)}
    ids = [words[token % len(words)] for token in PROMPT]
    plain = await write(opened(family), Lease(NEW), sampler, ids=ids, **rules)
    guessed = await write(opened(family, None), Lease(NEW), sampler, ids=ids, **rules)
    assert guessed.extension == plain.extension
    assert guessed.accepted and guessed.kinds["draft_rejected"]


# Another model, or the same one's first layers.


@pytest.fixture
def only_drafts(eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up."""
    monkeypatch.setattr(lookup.Lookup, "guess", lambda *_: lookup.NOTHING)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller model with the same vocabulary and other weights."""
    return save_checkpoint(tmp_path_factory.mktemp("draft"), "llama", seed=9, num_hidden_layers=2)


def drafter(backend: LocalBackend) -> DraftModel:
    found = backend._drafter
    assert isinstance(found, DraftModel)
    return found


@pytest.mark.parametrize("sampler", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["qwen3", *WINDOWED])
async def test_a_draft_model_that_knows_everything_is_always_right(
    opened: Load, checkpoint: Callable[[str], Path], only_drafts: None, family: str, sampler: Sampler
) -> None:
    backend = opened(family, str(checkpoint(family)))
    plain = await write(opened(family), Lease(NEW), sampler)
    guessed = await write(backend, Lease(NEW), sampler)
    assert guessed.ids == plain.ids
    assert guessed.accepted > 0.85 * NEW and guessed.kinds["draft_rejected"] == 0
    pool = drafter(backend).pool
    assert pool.held == 0, "its pages are released with the node"
    pool.check_integrity([])


@pytest.mark.parametrize("sampler", [GREEDY, WARM], ids=["greedy", "sampled"])
async def test_a_draft_model_that_knows_nothing_changes_nothing(
    opened: Load, other: Path, only_drafts: None, sampler: Sampler
) -> None:
    backend = opened("qwen3", str(other))
    plain = await write(opened(), Lease(NEW), sampler)
    guessed = await write(backend, Lease(NEW), sampler)
    assert guessed.ids == plain.ids
    assert guessed.kinds["draft_rejected"] > 5 * NEW
    drafter(backend).pool.check_integrity([])


@pytest.mark.parametrize("sampler", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
async def test_leaving_early_changes_nothing(
    opened: Load, only_drafts: None, family: str, sampler: Sampler
) -> None:
    plain = await write(opened(family), Lease(NEW), sampler)
    for layers in (1, 3):
        guessed = await write(opened(family, f"exit:{layers}"), Lease(NEW), sampler)
        assert guessed.ids == plain.ids
        assert guessed.accepted + guessed.kinds["draft_rejected"] > NEW


async def test_a_draft_model_reads_what_was_forced_and_what_a_fork_goes_on_from(
    opened: Load, checkpoint: Callable[[str], Path], only_drafts: None
) -> None:
    backend = opened("qwen3", str(checkpoint("qwen3")))
    pool, runner = drafter(backend).pool, drafter(backend)._runner
    async with prefilled(opened()) as plain:
        await opened().extend(plain, "answer", Lease(30), WARM)
        await opened().force(plain, "answer", [5, 6, 7])
        await opened().extend(plain, "answer", Lease(30), WARM)
        expected = list(plain.ids)
        [branch] = await opened().fork(plain, 1)
        await opened().extend(branch, "answer", Lease(30), WARM)
        branched = list(branch.ids)
        await opened().cancel(branch)
    async with prefilled(backend) as node:
        await backend.extend(node, "answer", Lease(30), WARM)
        await backend.force(node, "answer", [5, 6, 7])
        await backend.extend(node, "answer", Lease(30), WARM)
        assert node.ids == expected
        assert node.account.drafts_rejected == 0 and node.account.drafts_accepted > 50
        [fork] = await backend.fork(node, 1)
        read = runner.forwarded_tokens
        await backend.extend(fork, "answer", Lease(30), WARM)
        assert fork.ids == branched and fork.account.drafts_accepted > 25
        assert runner.forwarded_tokens - read < len(PROMPT) // 2, "what both have in common is not read again"
        await backend.extend(node, "answer", Lease(10), WARM)
        pool.check_integrity([follower.sequence.table for follower in drafter(backend)._followers.values()])
        await backend.cancel(fork)
    assert pool.held == 0
    pool.check_integrity([])


async def test_a_draft_model_reads_a_long_prompt_in_parts_between_tokens(
    opened: Load, checkpoint: Callable[[str], Path], only_drafts: None
) -> None:
    backend = opened("qwen3", str(checkpoint("qwen3")))
    ids = prompt(CHUNK + 200, seed=6)
    plain = await write(opened(), Lease(30), ids=ids)
    async with prefilled(backend, ids) as node:
        await backend.extend(node, "answer", Lease(30), GREEDY)
        assert node.ids == plain.ids
        first, second, *_ = node.account.drafted
        assert (first.tokens, first.context, second.context) == (CHUNK, 0, CHUNK)
        assert node.account.drafts_accepted > 20


async def test_without_pages_a_draft_model_is_silent(
    opened: Load, checkpoint: Callable[[str], Path], only_drafts: None
) -> None:
    backend = opened("qwen3", str(checkpoint("qwen3")))
    plain = await write(opened(), Lease(NEW))
    pool = drafter(backend).pool
    taken: list[int] = []
    pool.grow(taken, pool.pages - 2)
    guessed = await write(backend, Lease(NEW))
    assert guessed.ids == plain.ids
    assert 2 * PAGE - len(PROMPT) - 5 < guessed.accepted <= 2 * PAGE - len(PROMPT), "two pages hold no more"
    pool.release(taken)
    pool.check_integrity([])


@pytest.mark.parametrize("draft", ["model", "exit:2"])
async def test_several_at_once_are_drafted_for(
    opened: Load, checkpoint: Callable[[str], Path], only_drafts: None, draft: str
) -> None:
    backend = opened("qwen3", str(checkpoint("qwen3")) if draft == "model" else draft)
    prompts = [prompt(50 + 20 * seed, seed) for seed in range(3)]
    texts = [(await write(opened(), Lease(NEW), WARM, ids=ids)).ids for ids in prompts]
    nodes = [await backend.prefill(ids, Lease(0)) for ids in prompts]
    await asyncio.gather(*[backend.extend(node, "answer", Lease(NEW), WARM) for node in nodes])
    assert [node.ids for node in nodes] == texts
    for node in nodes:
        assert node.account.drafts_accepted + node.account.drafts_rejected > NEW // 2
        await backend.cancel(node)
    backend.runner.pool.check_integrity([])
    if draft == "model":
        drafter(backend).pool.check_integrity([])


# Whether and how much.


class Timed:
    """A sequence whose forwards take what a test says: `seconds` by tokens, those of others included."""

    def __init__(self, speculation: Speculation, seconds: Callable[[int], float], others: int = 0) -> None:
        self.speculation = speculation
        self.sequence = HeldSequence(PagePool(1, 1, 1, 1, torch.float32, "cpu"))
        self._seconds = seconds
        self._others = others

    def write(self, ids: Sequence[int]) -> list[int]:
        """Let these come; how many were proposed in each forward."""
        proposed, at = [], 0
        while at < len(ids):
            guess = self.speculation.propose(self.sequence, 15, lambda *_: None)
            right = next(
                (n for n, (one, two) in enumerate(zip(guess, ids[at:], strict=False)) if one != two),
                min(len(guess), len(ids) - at),
            )
            self.sequence.ids += ids[at : at + right + 1]
            at += right + 1
            tokens = 1 + len(guess)
            total = tokens + self._others
            seconds = self._seconds(total) * (1 + len(self.sequence.ids) * 1e-6)  # no two are quite alike
            entry = Forwarded("extend", "answer", "answer", tokens, 0, tokens, seconds, tokens / total)
            self.speculation.verified(self.sequence, entry)
            proposed.append(len(guess))
        return proposed


def flat(tokens: int) -> float:
    return 1.0 + (tokens - 1) * 0.05


def steep(tokens: int) -> float:
    return float(tokens)


def test_what_repeats_is_guessed_at_length_where_forwards_are_cheap() -> None:
    proposed = Timed(Speculation(), flat).write([1, 2, 3, 4] * 100)
    assert proposed[-3:] == [15] * 3 and sum(proposed) > 300


def test_nothing_is_guessed_where_forwards_cost_what_their_tokens_cost() -> None:
    speculation = Speculation()
    Timed(speculation, steep).write([1, 2, 3, 4] * 50)
    proposed = Timed(speculation, steep).write([1, 2, 3, 4] * 100)
    assert sum(count > 0 for count in proposed) <= len(proposed) / RETRY + 2


def test_nothing_is_guessed_of_a_text_that_does_not_repeat_itself() -> None:
    assert sum(Timed(Speculation(), flat).write(range(400))) == 0
    pairs = [
        token for pair in range(300) for token in (1, 2, 1000 + pair)
    ]  # what follows 1 2 is never the same
    assert sum(count > 0 for count in Timed(Speculation(), flat).write(pairs)) < 10


def test_beside_others_guesses_are_weighed_by_what_they_cost_all() -> None:
    """Up to eight tokens a forward costs the same, then each costs as much as the first."""

    def knee(tokens: int) -> float:
        return max(8.0, tokens)

    alone, beside = (Timed(Speculation(), knee, others) for others in (0, 16))
    assert max(alone.write([1, 2, 3] * 100)[-5:]) >= 7
    beside.write([1, 2, 3] * 50)
    proposed = beside.write([1, 2, 3] * 100)
    assert sum(count > 0 for count in proposed) <= len(proposed) / RETRY + 2


def test_guessing_comes_back_where_it_pays_again() -> None:
    cost = steep
    timed = Timed(Speculation(), lambda tokens: cost(tokens))
    timed.write([1, 2, 3] * 100)
    cost = flat
    assert timed.write([1, 2, 3] * 200)[-1] == COUNTS[-1]


class Scripted:
    """A drafter that is right so often, and takes no time."""

    info = weight_bytes = pool = None

    def __init__(self, right: bool) -> None:
        self.asked = 0
        self.right = right

    def guess(self, sequence: HeldSequence, count: int, _likely: object) -> list[int]:
        self.asked += 1
        last = sequence.ids[-1] if sequence.ids else -1
        return [last + 1 + at if self.right else 0 for at in range(count)]

    def forget(self, _: HeldSequence) -> None: ...


def test_a_drafter_that_is_wrong_is_asked_ever_more_rarely_and_one_that_is_right_always() -> None:
    wrong, right = Scripted(False), Scripted(True)
    steps = len(Timed(Speculation(wrong), flat).write(range(2000)))  # type: ignore[arg-type]
    assert wrong.asked < 25 and steps == 2000
    proposed = Timed(Speculation(right), flat).write(range(2000))  # type: ignore[arg-type]
    assert proposed[-2] == COUNTS[-1] and len(proposed) < 200
    wrong.right = True
    late = Timed(Speculation(wrong), flat)  # type: ignore[arg-type]
    assert len(late.write(range(2000))) < 300


# What cannot be.


@pytest.mark.parametrize("draft", ["exit:0", "exit:4", "exit:-1", "exit:many", "exit:"])
def test_an_exit_that_is_no_layer_of_the_model_is_refused(opened: Load, draft: str) -> None:
    with pytest.raises(ModelError, match="from 1 to 3") as caught:
        opened("qwen3", draft)
    assert "\n" not in str(caught.value) and caught.value.hint


def test_what_cannot_be_left_early_or_is_not_there_is_refused(opened: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be left early"):
        opened("gemma2", "exit:2")
    with pytest.raises(ModelError, match="nowhere"):
        opened("qwen3", str(tmp_path / "nowhere"))


def test_a_draft_model_with_another_vocabulary_is_refused(opened: Load) -> None:
    with pytest.raises(ModelError, match="another vocabulary") as caught:
        opened("qwen3", "tiny")
    assert "\n" not in str(caught.value) and caught.value.hint
