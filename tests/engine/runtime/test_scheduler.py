"""Who is in which forward: nobody stalls, nobody starves, and whoever is not wanted any more leaves at once.

Everything is counted in forwards and layers, nothing by the clock.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import numpy as np
import pytest
from forwards import WAIT_S, Forwards, Hold, held, listen, live, submitted, until
from random_checkpoint import prompt

from engine.backend import Extension, Lease, Node, Sampler, Watch
from engine.runtime import primitives, scheduler
from engine.runtime.local import LocalBackend
from engine.runtime.scheduler import CHUNK, FEW, ROWS, Work
from engine.runtime.sequence import Sequence
from engine.runtime.step import Step

GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
WARM = Sampler(temperature=1, top_p=0.9, top_k=30, seed=2)
ENOUGH = 100

Small = Callable[..., LocalBackend]


async def told(backend: LocalBackend, node: Node, count: int) -> tuple[int, ...]:
    return (await backend.extend(node, "answer", Lease(count), GREEDY)).ids


def tokens_of(heard: Forwards, ids: list[int]) -> list[int]:
    """In each forward, how many tokens were of the prompt that begins with these ids."""
    return [sum(len(row.ids) for row in rows if row.sequence.ids[: len(ids)] == ids) for rows in heard.rows]


async def test_an_answer_gets_a_token_from_every_forward_while_a_long_prompt_is_taken_in(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "CHUNK", 64)
    backend = small(ENOUGH)
    node, long = await backend.prefill(prompt(FEW), Lease(0)), prompt(900, seed=1)
    heard = listen(backend, monkeypatch)
    async with held(backend):
        answer = asyncio.create_task(told(backend, node, 40))
        prefill = asyncio.create_task(backend.prefill(long, Lease(0)))
    await asyncio.gather(answer, prefill)
    chunks = [count for count in tokens_of(heard, long) if count]
    assert sum(chunks) == 900 and len(chunks) >= 900 // 64
    assert max(chunks) <= 64 and chunks[0] == FEW + 1, "the first chunk tells how long one takes"
    beside = [rows for rows in heard.rows if any(row.sequence is node for row in rows)]
    assert len(beside) == 39, "one forward per token, the last needs none"
    assert beside == heard.rows[:39]
    assert sum(len(rows) == 2 for rows in beside) == min(len(chunks), 39)


async def test_without_anybody_to_wait_for_a_prompt_goes_in_large_chunks(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = small(ENOUGH)
    heard = listen(backend, monkeypatch)
    await backend.prefill(prompt(CHUNK + 300), Lease(0))
    assert [len(rows[0].ids) for rows in heard.rows] == [CHUNK, 300]


async def test_chunks_shrink_to_what_an_answer_beside_them_can_wait_for(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = small(ENOUGH)
    node = await backend.prefill(prompt(30), Lease(0))
    backend._scheduler._chunk_rate = 200.0  # tokens per second
    heard, long = listen(backend, monkeypatch), prompt(120, seed=1)
    async with held(backend):
        tasks = [
            asyncio.create_task(told(backend, node, 40)),
            asyncio.create_task(backend.prefill(long, Lease(0))),
        ]
    await asyncio.gather(*tasks)
    assert tokens_of(heard, long)[0] == 200 * scheduler.STALL_S // FEW * FEW


async def test_two_long_prompts_share_each_forward_and_a_short_one_is_not_kept_waiting(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "CHUNK", 60)
    backend = small(ENOUGH)
    heard = listen(backend, monkeypatch)
    prompts = [prompt(600, seed=1), prompt(600, seed=2), prompt(40, seed=3)]
    ended: list[int] = []

    async def prefill(number: int) -> None:
        await backend.prefill(prompts[number], Lease(0))
        ended.append(number)

    async with held(backend):
        tasks = [asyncio.create_task(prefill(number)) for number in range(3)]
    await asyncio.gather(*tasks)
    long, other, short = (np.cumsum(tokens_of(heard, ids)) for ids in prompts)
    assert ended[0] == 2
    assert list(short[:2]) == [20, 40]
    assert np.abs(long - other)[: len(long) - 2].max() <= 60, "neither is ahead by more than a forward"


async def test_more_answers_than_a_forward_has_rows_take_turns(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "ROWS", 8)
    backend = small(ENOUGH)
    parent = await backend.prefill(prompt(20), Lease(0))
    expected = await told(backend, (await backend.fork(parent, 1))[0], 12)
    forks = await backend.fork(parent, 20)
    heard = listen(backend, monkeypatch)
    async with held(backend):
        tasks = [asyncio.create_task(told(backend, fork, 12)) for fork in forks]
    assert await asyncio.gather(*tasks) == [expected] * 20
    assert max(len(rows) for rows in heard.rows) == 8
    assert len(heard.rows) <= 20 * 11 / 8 + 8, "the forwards are full"
    reached = {fork.born: 0 for fork in forks if isinstance(fork, Sequence)}
    for rows in heard.rows[: 20 * 11 // 8 // 2]:
        for row in rows:
            reached[row.sequence.born] += 1
    assert max(reached.values()) - min(reached.values()) <= 1, "nobody is left behind"


async def test_many_answers_at_once_say_what_each_says_alone(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = small(120)
    prompts = [prompt(5 + number, seed=number) for number in range(ROWS + 6)]
    alone = []
    for ids in prompts[::10]:
        node = await backend.prefill(ids, Lease(0))
        alone.append(await told(backend, node, 6))
        await backend.cancel(node)
    nodes = await asyncio.gather(*[backend.prefill(ids, Lease(0)) for ids in prompts])
    heard = listen(backend, monkeypatch)
    async with held(backend):
        tasks = [asyncio.create_task(told(backend, node, 6)) for node in nodes]
    assert (await asyncio.gather(*tasks))[::10] == alone
    assert max(len(rows) for rows in heard.rows) == ROWS and not heard.broken


# Leaving.


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of the forward at each layer that was begun."""
    begun: list[int] = []
    write = Step.write

    def counted(step: Step, layer: int, keys: Any, values: Any) -> None:
        begun.append(step.length)
        write(step, layer, keys, values)

    monkeypatch.setattr(Step, "write", counted)
    return begun


@pytest.mark.parametrize("who", ["the lease", "the task", "closing"])
async def test_a_long_forward_is_given_up_between_two_layers(
    small: Small, layers: list[int], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    backend, lease, loop = small(ENOUGH), Lease(0), asyncio.get_running_loop()
    write, reached, gone = Step.write, threading.Event(), threading.Event()

    def at_the_second_layer(step: Step, layer: int, keys: Any, values: Any) -> None:
        if layer == 1 and step.length > FEW and not reached.is_set():
            reached.set()
            assert gone.wait(WAIT_S)
        write(step, layer, keys, values)

    monkeypatch.setattr(Step, "write", at_the_second_layer)
    task = asyncio.create_task(backend.prefill(prompt(300), lease))
    await loop.run_in_executor(None, reached.wait, WAIT_S)
    match who:
        case "the lease":
            lease.cancelled = True
        case "the task":
            task.cancel()
            await asyncio.sleep(0)
        case "closing":
            closing = loop.run_in_executor(None, backend.close)
            await until(lambda: backend._scheduler._closing)
    gone.set()
    if who == "the task":
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert (await task).ids == [], "nothing was computed to its end"
    if who == "closing":
        await closing
    else:
        assert backend.runner.forwarded_tokens == 0
        backend.runner.pool.check_integrity([] if who == "the task" else [(await task).table])  # type: ignore[attr-defined]
    assert layers == [300, 300], "the second layer is seen to be unwanted, and no further one begun"


async def test_who_decodes_beside_a_long_forward_that_is_given_up_loses_nothing(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, lease = small(ENOUGH), Lease(0)
    parent = await backend.prefill(prompt(30), Lease(0))
    node, other = await backend.fork(parent, 2)
    expected = await told(backend, other, 20)
    backend._scheduler._chunk_rate = 1e6
    write, given_up = Step.write, 0

    def in_the_middle(step: Step, layer: int, keys: Any, values: Any) -> None:
        nonlocal given_up
        if layer == 2 and step.length > FEW + 1:
            lease.cancelled = True
            given_up += 1
        write(step, layer, keys, values)

    monkeypatch.setattr(Step, "write", in_the_middle)
    async with held(backend):
        answer = asyncio.create_task(told(backend, node, 20))
        prefill = asyncio.create_task(backend.prefill(prompt(600, seed=1), lease))
    assert await answer == expected
    assert len((await prefill).ids) == 0 and given_up == 1


async def test_a_cancelled_task_leaves_nothing_behind(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was doing: its pages, its forks and itself are gone, the node is as before."""
    backend = small(ENOUGH)
    heard = listen(backend, monkeypatch)
    node = await backend.prefill(prompt(100), Lease(0))
    await told(backend, node, 3)
    assert isinstance(node, Sequence)
    before = list(node.ids)
    endless: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: backend.prefill(prompt(900, seed=1), Lease(0)),
        lambda: backend.force(node, "answer", prompt(700, seed=2)),
        lambda: backend.probe(node, [5] * 40, 500, GREEDY),
        lambda: backend.score(node, prompt(800, seed=3)),
    ]

    def tried(forwards: int) -> bool:
        return heard.attempts >= forwards

    for start in endless:
        for attempt in range(3):  # before it begins, in its first forward, and later
            task = asyncio.create_task(start())
            await until(partial(tried, heard.attempts + attempt))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, WAIT_S)
            await backend._call(lambda: None)
            assert not backend._scheduler._works
            assert node.ids == before and not heard.broken
            backend.runner.pool.check_integrity([node.table])
    del task
    heard.rows.clear()
    gc.collect()
    assert list(backend._scheduler.ladder._alive) == [node]
    assert await told(backend, node, 4) == tuple((await _alone(small, [*prompt(100)], 7))[3:]), (
        "and goes on as if nothing had been"
    )


async def test_a_task_cancelled_twice_is_over_only_when_its_work_is(small: Small) -> None:
    """So that whoever cancelled may go on with the node at once."""
    backend = small(ENOUGH)
    node = await backend.prefill(prompt(100), Lease(0))
    hold = Hold(backend)
    task = asyncio.create_task(backend.extend(node, "answer", Lease(900), GREEDY))
    await submitted()
    for _ in range(2):
        task.cancel()
        await submitted()
    assert not task.done()
    hold.release()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, WAIT_S)
    assert (await backend.extend(node, "answer", Lease(3), GREEDY)).reason == "limit"


async def _alone(small: Small, ids: list[int], count: int) -> list[int]:
    backend = small(ENOUGH)
    return list(await told(backend, await backend.prefill(ids, Lease(0)), count))


async def test_a_node_that_is_cancelled_while_it_is_at_work_stops(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = small(ENOUGH)
    heard = listen(backend, monkeypatch)
    node = await backend.prefill(prompt(50), Lease(0))
    begun = asyncio.Event()
    task = asyncio.create_task(
        backend.extend(node, "answer", Lease(900), GREEDY, on_tokens=lambda _: begun.set())
    )
    await begun.wait()
    await backend.cancel(node)
    extension = await asyncio.wait_for(task, WAIT_S)
    assert extension.reason == "cancelled" and len(extension.ids) < 900
    backend.runner.pool.check_integrity([])
    assert not heard.broken
    for again in (
        backend.extend(node, "answer", Lease(3), GREEDY),
        backend.force(node, "answer", [5]),
        backend.fork(node, 1),
        backend.probe(node, [5], 3, GREEDY),
        backend.score(node, [5]),
    ):
        with pytest.raises(ValueError, match="cancelled"):
            await again
    backend.runner.pool.check_integrity([])


async def test_a_node_does_one_thing_at_a_time(small: Small) -> None:
    backend = small(ENOUGH)
    node = await backend.prefill(prompt(50), Lease(0))
    async with held(backend):
        first = asyncio.create_task(told(backend, node, 20))
        second = asyncio.create_task(told(backend, node, 20))
        third = asyncio.create_task(backend.force(node, "answer", [5]))
    for refused in (second, third):
        with pytest.raises(ValueError, match="at work already"):
            await refused
    assert list(await first) == await _alone(small, prompt(50), 20)


@pytest.mark.parametrize("at_fault", [{1}, {0, 2}, set()])
async def test_of_those_in_a_forward_that_fails_only_they_fail_who_fail_alone(
    small: Small, monkeypatch: pytest.MonkeyPatch, at_fault: set[int]
) -> None:
    """`at_fault`: whose rows break the kernel; where it is nobody's, the forward breaks once."""
    backend = small(ENOUGH)
    heard = listen(backend, monkeypatch)
    prompts = [prompt(20 + number, seed=number) for number in range(4)]
    nodes = [await backend.prefill(ids, Lease(0)) for ids in prompts]
    by_length = sorted(live(backend), key=lambda sequence: len(sequence.ids))
    first_pages = [sequence.table[0] for sequence in by_length]
    forward, failed = backend.runner._forward, []

    def broken(ids: Any, step: Any, logits_of: Any) -> Any:
        here = {first_pages.index(segment.table[0]) for segment in step.segments}
        once = not at_fault and not failed and len(here) > 1
        if heard.attempts > 12 and (once or here & at_fault):
            failed.append(len(here))
            raise ZeroDivisionError("a kernel broke")
        return forward(ids, step, logits_of)

    monkeypatch.setattr(backend.runner, "_forward", broken)
    async with held(backend):
        tasks = [asyncio.create_task(told(backend, node, 10)) for node in nodes]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert max(failed) == 4, "they were together"
    monkeypatch.setattr(backend.runner, "_forward", forward)
    for number, (ids, result, node) in enumerate(zip(prompts, results, nodes, strict=True)):
        expected = await _alone(small, ids, 10)
        if number in at_fault:
            assert isinstance(result, ZeroDivisionError)
            assert node.ids == [*ids, *expected][: len(node.ids)]
            rest = await told(backend, node, len(ids) + 10 - len(node.ids))
            assert node.ids == [*ids, *expected] and rest, "it can be taken up again"
        else:
            assert list(result) == expected  # type: ignore[arg-type]
    assert not heard.broken


async def test_ids_that_could_not_be_forced_are_not_on_the_node(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = small(ENOUGH)
    node = await backend.prefill(prompt(20), Lease(0))
    await told(backend, node, 5)
    before, forward, calls = list(node.ids), backend.runner._forward, 0

    def broken(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError
        return forward(*given)

    monkeypatch.setattr(backend.runner, "_forward", broken)
    with pytest.raises(ZeroDivisionError):
        await backend.force(node, "answer", prompt(CHUNK + 20, seed=1))
    assert node.ids == before
    await backend.force(node, "answer", [])
    assert node.ids == before and node.pending is None
    assert list(await told(backend, node, 5)) == (await _alone(small, prompt(20), 10))[5:]


async def test_one_who_cannot_be_told_how_far_it_is_takes_nobody_along(small: Small) -> None:
    backend = small(ENOUGH)
    sequence = Sequence(backend.runner.pool)

    def report(done: int) -> None:
        if done:
            raise RuntimeError("the loop is closed")

    async with held(backend):
        work = Work(primitives.prefill(sequence, prompt(900, seed=1), report), sequence, lambda: False)
        future = backend._scheduler.submit(work)
        beside = asyncio.create_task(backend.prefill(prompt(50), Lease(0)))
    node = await asyncio.wait_for(beside, WAIT_S)
    assert isinstance(future.exception(WAIT_S), RuntimeError)
    assert list(await told(backend, node, 5)) == await _alone(small, prompt(50), 5)


async def test_a_fault_of_the_scheduler_itself_leaves_nobody_waiting(
    small: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = small(ENOUGH)
    nodes = [await backend.prefill(prompt(50), Lease(0)) for _ in range(2)]
    with monkeypatch.context() as broken:
        broken.setattr(backend._scheduler.ladder, "fit", lambda *_: [][0])
        async with held(backend):
            tasks = [asyncio.create_task(told(backend, node, 5)) for node in nodes]
        errors = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_S)
    assert [type(error) for error in errors] == [IndexError] * 2
    assert "the scheduler failed" in caplog.text
    assert nodes[0].ids[:-1] == prompt(50) and len(await told(backend, nodes[0], 5)) == 5


async def test_what_is_asked_of_an_engine_that_has_ended_is_refused_at_once(small: Small) -> None:
    backend = small(ENOUGH)
    node = await backend.prefill(prompt(50), Lease(0))
    engine = backend._scheduler
    await asyncio.get_running_loop().run_in_executor(None, engine.close)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(backend.extend(node, "answer", Lease(5), GREEDY), WAIT_S)
    await asyncio.wait_for(backend.cancel(node), WAIT_S)
    backend.runner.pool.check_integrity([])


# Watches.


def expected_watch(logits: np.ndarray, token: int) -> Watch:
    """By the definitions, in float64."""
    logits = logits.astype(np.float64)
    logs = logits - logits.max()
    logs -= np.log(np.exp(logs).sum())
    top = -np.sort(-logs)[:20]
    entropy, certainty = float(-(np.exp(logs) * logs).sum()), float(-(logs + np.log(len(logs))).mean())
    return Watch(tuple(top), entropy, certainty, float(logs[token]))


@pytest.mark.parametrize("sampler", [GREEDY, WARM], ids=["greedy", "sampled"])
async def test_a_watch_says_what_the_model_thought_of_each_token(
    small: Small, predicted: Callable[[str, list[int]], np.ndarray], sampler: Sampler
) -> None:
    backend, ids = small(ENOUGH), prompt(70)
    node, stranger = [await backend.prefill(each, Lease(0)) for each in (ids, prompt(33, seed=3))]
    async with held(backend):
        watched = asyncio.create_task(backend.extend(node, "answer", Lease(12), sampler, watch=True))
        beside = asyncio.create_task(backend.extend(stranger, "answer", Lease(12), WARM))
    extension: Extension = await watched
    assert (await beside).watched == ()
    assert len(extension.watched) == 12
    rows = predicted("qwen3", [*ids, *extension.ids])[len(ids) - 1 :]
    for seen, logits, token in zip(extension.watched, rows, extension.ids, strict=False):
        expected = expected_watch(logits, token)
        assert seen.top == pytest.approx(expected.top, abs=2e-4)
        assert seen.entropy == pytest.approx(expected.entropy, abs=2e-4)
        assert seen.certainty == pytest.approx(expected.certainty, abs=2e-4)
        assert seen.chosen == pytest.approx(expected.chosen, abs=2e-4)
        assert seen.confidence == pytest.approx(-np.mean(expected.top), abs=2e-4)


async def test_a_token_that_ends_an_extension_is_watched_too(small: Small) -> None:
    backend = small(ENOUGH)
    text = await _alone(small, prompt(70), 8)
    stop = text[-1]
    count = text.index(stop)
    node = await backend.prefill(prompt(70), Lease(0))
    extension = await backend.extend(node, "answer", Lease(20), GREEDY, stop=frozenset({stop}), watch=True)
    assert (len(extension.ids), len(extension.watched)) == (count, count + 1)
