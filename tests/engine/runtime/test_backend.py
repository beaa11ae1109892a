"""The primitives: what they leave on a node, in its account and in the pool."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from random_checkpoint import prompt

from engine.backend import Lease, Node, OutOfContext, Sampler, WindDown
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.sampler import choose
from engine.runtime.scheduler import CHUNK
from engine.runtime.sequence import Sequence
from profiles.detect import Settings, detect

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
WARM = Sampler(temperature=1, top_p=1, top_k=0, seed=1)
CPU = Settings("cpu", "fp32", 1)
PROMPT = prompt(100)
LONG = 700


@asynccontextmanager
async def prefilled(backend: LocalBackend, ids: list[int] = PROMPT) -> AsyncIterator[Node]:
    """A node with a prompt, released at the end; the pool must then be whole and empty."""
    node = await backend.prefill(ids, Lease(0))
    try:
        yield node
    finally:
        await backend.cancel(node)
        await backend.cancel(node)
        backend.runner.pool.check_integrity([])


async def sampled(backend: LocalBackend, count: int, sampler: Sampler = GREEDY) -> list[int]:
    """What the model writes after the prompt."""
    async with prefilled(backend) as node:
        return list((await backend.extend(node, "answer", Lease(count), sampler)).ids)


async def test_the_runner_counts_what_the_accounts_say_each_token_with_its_kind(qwen3: LocalBackend) -> None:
    before = qwen3.runner.forwarded_tokens
    async with prefilled(qwen3, prompt(len(PROMPT), seed=1)) as node:
        await qwen3.extend(node, "thinking", Lease(10), GREEDY)
        assert node.pending == "thinking"
        await qwen3.force(node, "thinking", [5, 6, 7])
        assert node.pending is None
        await qwen3.extend(node, "answer", Lease(4), GREEDY)
        assert node.pending == "answer"
        kinds: Counter[str] = Counter()
        for entry in node.account.forwarded:
            kinds[entry.kind] += entry.tokens
        assert kinds == {"prefilled": len(PROMPT), "thinking": 10, "forced": 3, "answer": 3}
        assert qwen3.runner.forwarded_tokens - before == sum(kinds.values()) == len(node.ids) - 1
        assert [entry.context for entry in node.account.forwarded][:3] == [0, len(PROMPT), len(PROMPT) + 1]
        assert len(node.account.sampled_ns) == 14
        assert node.account.sampled_ns == sorted(node.account.sampled_ns)


async def test_forced_ids_lead_to_the_same_text_as_sampled_ones(qwen3: LocalBackend) -> None:
    text = await sampled(qwen3, 40)
    async with prefilled(qwen3) as node:
        await qwen3.force(node, "thinking", text[:20])
        rest = await qwen3.extend(node, "answer", Lease(20), GREEDY)
        assert list(rest.ids) == text[20:]


async def test_an_extension_in_parts_samples_what_one_samples(qwen3: LocalBackend) -> None:
    whole = await sampled(qwen3, 30, WARM)
    async with prefilled(qwen3) as node:
        for part in (1, 12, 17):
            await qwen3.extend(node, "answer", Lease(part), WARM)
        assert node.ids == [*PROMPT, *whole]


async def test_a_sample_follows_from_the_logits_and_its_position(qwen3: LocalBackend) -> None:
    text = await sampled(qwen3, 20, WARM)
    held = Sequence(qwen3.runner.pool)
    qwen3.runner.forward(held, PROMPT)
    for offset, token in enumerate(text):
        assert choose(held.logits, WARM, len(PROMPT) + offset) == token
        qwen3.runner.forward(held, [token])
    held.release()


async def test_a_stop_id_is_dropped_and_a_kept_one_stays_pending(qwen3: LocalBackend) -> None:
    text = await sampled(qwen3, 10)
    stop = text[6]
    before = text[: text.index(stop)]
    async with prefilled(qwen3) as node:
        dropped = await qwen3.extend(node, "thinking", Lease(50), GREEDY, stop=frozenset({stop}))
        assert (list(dropped.ids), dropped.reason, dropped.stop_id) == (before, "stop", stop)
        assert node.ids == [*PROMPT, *before]
        seen: list[int] = []
        kept = await qwen3.extend(
            node, "thinking", Lease(50), GREEDY, keep=frozenset({stop}), on_tokens=seen.extend
        )
        assert (list(kept.ids), kept.reason, kept.stop_id) == ([stop], "stop", stop)
        assert node.ids == [*PROMPT, *before, stop] and node.pending == "thinking" and seen == []


async def test_all_tokens_are_delivered_in_order_before_the_extension_returns(qwen3: LocalBackend) -> None:
    chunks: list[tuple[int, ...]] = []
    async with prefilled(qwen3) as node:
        extension = await qwen3.extend(node, "answer", Lease(60), GREEDY, on_tokens=chunks.append)
        assert tuple(token for chunk in chunks for token in chunk) == extension.ids
        assert len(chunks[0]) == 1, "the first token does not wait for others"


async def test_banned_ids_are_never_sampled(qwen3: LocalBackend) -> None:
    banned = frozenset(await sampled(qwen3, 30))
    async with prefilled(qwen3) as node:
        extension = await qwen3.extend(node, "answer", Lease(30), GREEDY, banned=banned)
        assert len(extension.ids) == 30
        assert not banned & set(extension.ids)


async def test_a_lease_is_read_while_it_runs(qwen3: LocalBackend) -> None:
    async with prefilled(qwen3) as node:
        lease = Lease(5)

        def more(_: tuple[int, ...]) -> None:
            lease.limit = 300

        lease.limit = 200
        extension = await qwen3.extend(node, "answer", lease, GREEDY, on_tokens=more)
        assert extension.reason == "limit"
        assert lease.used == lease.limit == len(extension.ids) == 300


@pytest.mark.parametrize(("flag", "reason"), [("ended", "ended"), ("cancelled", "cancelled")])
async def test_a_running_extension_can_be_ended_or_cancelled(
    qwen3: LocalBackend, flag: str, reason: str
) -> None:
    async with prefilled(qwen3) as node:
        lease = Lease(LONG)
        extension = await qwen3.extend(
            node, "answer", lease, GREEDY, on_tokens=lambda _: setattr(lease, flag, True)
        )
        assert extension.reason == reason
        assert 0 < len(extension.ids) < LONG
        assert node.ids == [*PROMPT, *extension.ids]


async def test_cancelling_the_task_stops_the_work_and_frees_the_pages(qwen3: LocalBackend) -> None:
    started = asyncio.Event()
    async with prefilled(qwen3) as node:
        task = asyncio.create_task(
            qwen3.extend(node, "answer", Lease(LONG), GREEDY, on_tokens=lambda _: started.set())
        )
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        count = len(node.ids)
        assert count < len(PROMPT) + LONG
        await asyncio.sleep(0.05)
        assert len(node.ids) == count, "the thread went on after the task had ended"
    assert await sampled(qwen3, 3), "the backend serves the next one"


async def test_closing_cancels_what_runs_and_what_waits(checkpoint: Callable[[str], Path]) -> None:
    backend = create(ModelSpec(model=str(checkpoint("qwen3"))), detect().profile, CPU)
    node = await backend.prefill(PROMPT, Lease(0))
    started = asyncio.Event()
    running = asyncio.create_task(
        backend.extend(node, "answer", Lease(LONG), GREEDY, on_tokens=lambda _: started.set())
    )
    await started.wait()
    others = [asyncio.create_task(backend.prefill(prompt(900, seed), Lease(0))) for seed in range(9)]
    await asyncio.sleep(0)
    await asyncio.to_thread(backend.close)
    assert (await running).reason == "cancelled"
    await asyncio.wait(others, timeout=30)
    assert all(other.done() for other in others)
    assert any(other.cancelled() or len(other.result().ids) < 900 for other in others)
    await backend.cancel(node)


async def test_a_prefill_cancelled_between_chunks_keeps_what_was_forwarded(qwen3: LocalBackend) -> None:
    lease, ids = Lease(0), prompt(CHUNK + 200, seed=2)
    steps: list[tuple[int, int]] = []
    before = qwen3.runner.forwarded_tokens

    node = await qwen3.prefill(ids, lease, lambda *step: steps.append(step))
    assert steps == [(0, 0), (CHUNK, 0), (len(ids), 0)]
    await qwen3.cancel(node)

    lease.cancelled = True
    node = await qwen3.prefill(ids, lease)
    assert (node.ids, node.account.forwarded) == ([], [])
    await qwen3.cancel(node)

    begun = asyncio.Event()
    other = prompt(CHUNK + 200, seed=3)
    task = asyncio.create_task(qwen3.prefill(other, Lease(0), lambda *_: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await qwen3.cancel(node)  # waits for its turn, behind what the cancelled task left
    qwen3.runner.pool.check_integrity([])
    assert qwen3.runner.forwarded_tokens - before <= 2 * len(ids)


async def test_the_context_ends_an_extension_and_refuses_what_does_not_fit(qwen3: LocalBackend) -> None:
    context = qwen3.info.context
    with pytest.raises(OutOfContext):
        await qwen3.prefill(prompt(context + 1), Lease(0))
    async with prefilled(qwen3, prompt(context - 3)) as node:
        with pytest.raises(OutOfContext):
            await qwen3.force(node, "answer", [5] * 4)
        extension = await qwen3.extend(node, "answer", Lease(10), GREEDY)
        assert (extension.reason, len(extension.ids)) == ("context", 3)


async def test_a_sentence_end_past_the_grace_ends_the_extension(qwen3: LocalBackend) -> None:
    text = await sampled(qwen3, 20)
    end = text[15]
    wind_down = WindDown(token=2, sentence_ends=frozenset({end}), soft=1.0, grace=0.6, strength=0)
    expected = next(at + 1 for at, token in enumerate(text) if token == end and at + 1 >= 12)
    async with prefilled(qwen3) as node:
        extension = await qwen3.extend(node, "thinking", Lease(20), GREEDY, wind_down=wind_down)
        assert (list(extension.ids), extension.reason) == (text[:expected], "limit")


async def test_the_ramp_lifts_the_ending_token_only_after_a_sentence(qwen3: LocalBackend) -> None:
    text = await sampled(qwen3, 20)
    end, stop = text[15], frozenset({2})
    ramp = WindDown(token=2, sentence_ends=frozenset({end}), soft=0.5, grace=2, strength=1e4)
    first = next(at + 1 for at, token in enumerate(text) if token == end and at + 1 > 10)
    async with prefilled(qwen3) as node:
        extension = await qwen3.extend(node, "thinking", Lease(20), GREEDY, stop=stop, wind_down=ramp)
        assert (list(extension.ids), extension.reason) == (text[:first], "stop")
        assert extension.stop_id == 2


async def test_memory_follows_the_pages_that_are_held(qwen3: LocalBackend) -> None:
    async with prefilled(qwen3) as node:
        page = qwen3.runner.pool.page_bytes
        assert qwen3.memory().kv_used == 2 * page
        await qwen3.extend(node, "answer", Lease(100), GREEDY)
        use = qwen3.memory()
        assert use.kv_used == 4 * page <= use.kv_allocated
        assert use.weights == 4 * qwen3.info.parameters < use.process <= use.process_peak
    use = qwen3.memory()
    assert use.kv_used == 0 and use.kv_idle >= 4 * page


async def test_forks_that_nobody_waits_for_leave_no_pages_behind(qwen3: LocalBackend) -> None:
    async with prefilled(qwen3) as node:
        held = qwen3.runner.pool.held
        for make in (lambda: qwen3.fork(node, 3), lambda: qwen3.score(node, [5, 6])) * 5:
            task = asyncio.ensure_future(make())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert qwen3.runner.pool.held == held
