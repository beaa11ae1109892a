"""Measuring speed on a real backend and a real engine: alone, stopped at any moment, honest about limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from engine.client import Places, ResidentEngine, resident
from engine.protocol import (
    AnswerRequest,
    Cancel,
    Delta,
    Event,
    Failed,
    Finished,
    Message,
    ModelSpec,
    Queued,
    Sampling,
    Started,
)
from engine.protocol.speed import Measured, Measuring, SpeedEvent, SpeedReport, SpeedRequest
from engine.runtime import limits
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.setup import open_backend
from engine.speed import DoesNotFit, Stop, Stopped, measure
from profiles.costs import decode_bytes, decode_flops

SMALL = SpeedRequest(id="speed", spec=ModelSpec(), prompt=20, generate=4, batch=2, runs=1)


@pytest.fixture(scope="module")
def backend() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(context=2 * PAGE))
    yield backend
    backend.close()


@pytest.fixture
async def engine(home: Path) -> AsyncIterator[ResidentEngine]:
    engine = resident(Places(Path(os.environ["XDG_RUNTIME_DIR"]) / "engine.sock", home / "engine.log"))
    yield engine
    await engine.shutdown()
    await engine.close()


async def report_of(backend: LocalBackend, request: SpeedRequest = SMALL) -> SpeedReport:
    return await measure(request, backend, lambda _: None, Stop())


def babble(answer_id: str) -> AnswerRequest:
    """Two thousand tokens of nonsense."""
    return AnswerRequest(
        id=answer_id,
        spec=ModelSpec(),
        messages=(Message("user", "What is 48 + 26?"),),
        think="off",
        sampling=Sampling(temperature=99.0, seed=11),
        max_tokens=3000,
    )


async def queued(engine: ResidentEngine, jobs: int) -> None:
    for _ in range(1000):
        if (status := await engine.status()) is not None and status.queued == jobs:
            return
        await asyncio.sleep(0.01)
    pytest.fail("nobody waits")


async def test_it_is_measured_alone_after_those_before_and_before_those_after(engine: ResidentEngine) -> None:
    order: list[str] = []

    async def measured() -> list[SpeedEvent]:
        heard = [event async for event in engine.speed(SMALL)]
        order.append("measured")
        return heard

    async def answered() -> list[Event]:
        heard = []
        async for event in engine.answer(babble("late")):
            heard.append(event)
            if isinstance(event, Started):
                order.append("started")
                await engine.control("late", Cancel())
        return heard

    first = engine.answer(babble("first"))
    async for event in first:
        if isinstance(event, Delta):
            break
    measuring = asyncio.create_task(measured())
    await queued(engine, 1)
    late = asyncio.create_task(answered())
    await queued(engine, 2)
    await engine.control("first", Cancel())
    assert isinstance([event async for event in first][-1], Finished)
    heard = await measuring
    assert isinstance(heard[0], Queued) and heard[0].ahead == 1
    assert all(isinstance(event, Measuring) for event in heard[1:-1])
    assert isinstance(heard[-1], Measured) and heard[-1].report.batch == 2
    await late
    assert order == ["measured", "started"]


async def test_a_cancelled_measurement_ends_and_the_engine_goes_on(engine: ResidentEngine) -> None:
    long = msgspec.structs.replace(SMALL, generate=1000, runs=1000)
    heard: list[SpeedEvent] = []
    async for event in engine.speed(long):
        heard.append(event)
        if isinstance(event, Measuring) and event.done:
            await engine.control(long.id, Cancel())
    assert isinstance(heard[-1], Failed) and heard[-1].code == "cancelled"
    again = [event async for event in engine.speed(SMALL)]
    assert isinstance(again[-1], Measured)


@pytest.mark.parametrize("told", range(1, 5))
async def test_stopped_at_any_moment_it_leaves_no_page_held(backend: LocalBackend, told: int) -> None:
    stop, heard = Stop(), []

    def emit(event: Measuring) -> None:
        heard.append(event)
        if len(heard) == told:
            stop.control(Cancel())

    with pytest.raises(Stopped):
        await measure(msgspec.structs.replace(SMALL, generate=100, runs=1000), backend, emit, stop)
    assert backend.runner.pool.held == 0


async def test_stopped_in_the_middle_of_a_row_it_does_not_go_on_to_its_end() -> None:
    backend = open_backend(ModelSpec())
    stop, heard = Stop(), []

    def emit(event: Measuring) -> None:
        heard.append(event.done)
        if event.done > SMALL.prompt:
            stop.control(Cancel())

    with pytest.raises(Stopped):
        await measure(msgspec.structs.replace(SMALL, generate=3000, batch=1, runs=1000), backend, emit, stop)
    backend.close()
    assert SMALL.prompt < heard[-1] < 3000


async def test_a_batch_that_the_pages_hold_runs_and_one_row_more_is_refused(backend: LocalBackend) -> None:
    tokens = SMALL.prompt + SMALL.generate
    rows = backend.capacity(tokens)
    assert rows == backend.runner.pool.pages > 1
    report = await report_of(backend, msgspec.structs.replace(SMALL, batch=rows))
    assert report.batch == rows
    with pytest.raises(DoesNotFit, match=f"holds {rows} rows of {tokens} tokens, not {rows + 1}"):
        await report_of(backend, msgspec.structs.replace(SMALL, batch=rows + 1))
    assert backend.capacity(PAGE + 1) == rows // 2


async def test_each_token_has_a_pass_of_its_own_whatever_the_text_repeats(backend: LocalBackend) -> None:
    report = await report_of(backend, msgspec.structs.replace(SMALL, generate=100, batch=1))
    passes = range(SMALL.prompt + 1, SMALL.prompt + 100)
    assert report.decode.flops.value == sum(decode_flops(backend.shape, length).total for length in passes)
    assert report.decode.bytes.value == sum(decode_bytes(backend.shape, length).total for length in passes)


async def test_nothing_of_it_stays_to_be_found(backend: LocalBackend) -> None:
    await report_of(backend, msgspec.structs.replace(SMALL, prompt=PAGE + 1))
    assert (backend.runner.pool.held, backend.runner.pool.idle) == (0, 0)
    backend.runner.pool.check_integrity([])


async def test_a_bandwidth_that_cannot_be_measured_is_the_profile_s_and_named_so(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUFFER", 1 << 50)
    report = await report_of(backend)
    assert report.limits.bandwidth == report.limits.profile_bandwidth
    assert report.limits.bandwidth.method == "modelled" and "estimated" in report.limits.bandwidth.source
    assert any(note.startswith("not measured") for note in report.notes)
    assert report.mbu.value is not None and "estimated figure" in report.mbu.source


async def test_without_any_bandwidth_what_would_follow_from_it_is_unknown(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BUFFER", 1 << 50)
    monkeypatch.setattr(backend, "profile", replace(backend.profile, bandwidth=None))
    report = await report_of(backend)
    for figure in (report.mbu, report.roofline_tok_s, report.decode.gap, report.prefill.gap):
        assert figure.value is None and figure.reasons
    assert report.decode.bound is None and report.mfu.value is not None


def test_prompts_are_made_of_text_alone(backend: LocalBackend) -> None:
    plain = set(backend.tokenizer.plain_ids())
    special = {backend.tokenizer.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>")}
    assert not plain & (special | backend.tokenizer.eos_ids)
    assert len(plain) > 500 and max(plain) < backend.shape.vocab
