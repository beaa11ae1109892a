"""Answers asked for in bulk: as good as others, told of only when they have ended, and not kept."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from engine.client import Places, ResidentEngine, resident
from engine.desk import AT_ONCE, BULK
from engine.protocol import Answer, AnswerRequest, Event, Finished, Loaded, Message, ModelSpec

QUESTION = "What is 48 + 26? " * 12
"""Longer than a page of the cache."""


@pytest.fixture
async def engine() -> AsyncIterator[ResidentEngine]:
    folder = Path(tempfile.mkdtemp(prefix="mull-"))  # a socket's path has to be short
    engine = resident(Places(folder / "engine.sock", folder / "engine.log", prompts=folder / "prompts"))
    yield engine
    await engine.shutdown()
    await engine.close()
    shutil.rmtree(folder)


async def events_of(engine: ResidentEngine, asked: AnswerRequest) -> list[Event]:
    return [event async for event in engine.answer(asked)]


def request(name: str, bulk: bool = True) -> AnswerRequest:
    return AnswerRequest(
        id=name, spec=ModelSpec(), messages=(Message("user", QUESTION),), think=24, bulk=bulk
    )


def said(events: list[Event]) -> Answer:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.answer


async def test_they_are_told_of_at_their_end_alone_and_say_the_same(engine: ResidentEngine) -> None:
    *_, loaded = [event async for event in engine.load(ModelSpec())]
    assert isinstance(loaded, Loaded) and len(bytes.fromhex(loaded.model.fingerprint)) == 32
    assert {method.name: method.thinks for method in loaded.methods}.items() >= {
        "direct": False,
        "cot": True,
    }.items()
    count = AT_ONCE * BULK
    many = await asyncio.gather(*(events_of(engine, request(f"b{number}")) for number in range(count)))
    assert all(len(events) == 1 for events in many), "nobody waited, and nothing was streamed"
    status = await engine.status()
    assert status is not None and status.kv_idle_bytes == 0, "nothing of their prompts is kept"
    alone = said(await events_of(engine, request("alone", bulk=False)))
    assert {(one.thinking, one.answer) for one in map(said, many)} == {(alone.thinking, alone.answer)}
    plain = msgspec.structs.asdict(alone.receipt.tokens)
    for one in map(said, many):
        tokens = one.receipt.tokens
        assert tokens.cached + tokens.prefilled == plain["prompt"]
        assert (tokens.thinking, tokens.answer) == (plain["thinking"], plain["answer"])
