"""Where a thought settled is found by probes from its end, charged apart, and given up for anything else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run
from msgspec.structs import replace

from engine.client import Places, resident
from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.meter.receipt import Clock
from engine.protocol import Answer, AnswerRequest, Cancel, Failed, Finished, Message, ModelSpec, Settling
from engine.protocol.settling import SettlingRequest
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.speed import Stop, Stopped
from engine.thinking.refusals import UsageError
from engine.thinking.settling import settle

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, EOS, NEWLINE = (TOKENIZER.encode(text)[0] for text in ("<think>", "<|im_end|>", "\n"))
ONE, TWO, STOP = (TOKENIZER.encode(text)[0] for text in ("1", "2", "."))

FOR_EVER = {THINK: ONE, ONE: STOP, STOP: ONE}
"""Thinks `1.1.1.`."""
SAYS_TWO = {NEWLINE: TWO, TWO: EOS}
SAYS_NO_END = {NEWLINE: TWO, TWO: TWO}
SUM = "What is 12 + 7 - 4 + 15 - 9?"


def scripted(folder: Path, script: Mapping[int, int]) -> Path:
    return scripted_checkpoint.write(folder / "scripted", TINY, script, TOKENIZER.size, initializer_range=0.2)


@pytest.fixture(scope="module")
def tiny() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(model="tiny"))
    yield backend
    backend.close()


async def settled(answer: Answer, backend: LocalBackend) -> tuple[Settling, int]:
    """With the tokens that the runner counted meanwhile."""
    before = backend.runner.forwarded_tokens
    found = await settle(answer, backend, Clock(0, 0, 0.0), Stop())
    backend.runner.pool.check_integrity([])
    return found, backend.runner.forwarded_tokens - before


async def test_marks_after_the_settling_point_have_the_answer_and_the_one_before_it_another(
    tiny: LocalBackend,
) -> None:
    answer = (await Run(SUM)(tiny, trace=True)).answer
    found, forwarded = await settled(answer, tiny)
    assert found.settled is not None and found.marks and found.thought <= answer.receipt.tokens.thinking
    same = [mark for mark in found.marks if mark.tokens >= found.settled]
    assert all(mark.answer == answer.answer for mark in same)
    assert len(found.marks) - len(same) == (found.settled > 0)
    assert found.settled == found.thought or found.settled in [mark.tokens for mark in same]
    tokens = found.receipt.tokens
    assert tokens.probe > 0 and tokens.forwarded() == forwarded
    assert answer.receipt.tokens.probe == 0


async def test_a_thought_that_changed_nothing_settled_before_it_began(tmp_path: Path) -> None:
    backend = open_backend(ModelSpec(model=str(scripted(tmp_path, FOR_EVER | SAYS_TWO))))
    answer = (await Run()(backend, think=300, trace=True)).answer
    found, forwarded = await settled(answer, backend)
    assert (found.settled, found.budget) == (0, 0)
    assert len(found.marks) == 8 and {mark.answer for mark in found.marks} == {"2"}
    assert [mark.tokens for mark in found.marks] == sorted({mark.tokens for mark in found.marks})
    assert found.receipt.tokens.forwarded() == forwarded
    assert found.receipt.tokens.prefilled < found.thought, "most of it was in the cache"
    backend.close()


async def test_its_budget_lets_a_thought_come_as_far(tiny: LocalBackend) -> None:
    answer = (await Run(SUM)(tiny, trace=True)).answer
    found, _ = await settled(answer, tiny)
    assert found.budget is not None
    again = (await Run(SUM)(tiny, think=found.budget or "off")).answer
    assert again.answer == answer.answer


async def test_an_answer_without_a_short_form_cannot_be_told(tmp_path: Path) -> None:
    backend = open_backend(ModelSpec(model=str(scripted(tmp_path, FOR_EVER | SAYS_NO_END))))
    answer = (await Run()(backend, think=60, max_tokens=40, trace=True)).answer
    found, _ = await settled(answer, backend)
    assert found.settled is None and found.budget is None and "no short form" in found.reason
    backend.close()


async def test_what_has_no_thought_or_no_record_is_refused(tiny: LocalBackend) -> None:
    direct = (await Run(SUM)(tiny, think="off", trace=True)).answer
    with pytest.raises(UsageError, match="no thought"):
        await settled(direct, tiny)
    with pytest.raises(UsageError, match="not recorded"):
        await settled(replace(direct, trace=None), tiny)
    assert direct.trace is not None
    with pytest.raises(UsageError, match="another model"):
        await settled(replace(direct, trace=replace(direct.trace, weights="0")), tiny)


async def test_it_stops_when_it_is_told_to(tiny: LocalBackend) -> None:
    answer = (await Run(SUM)(tiny, trace=True)).answer
    stop = Stop()
    running = asyncio.create_task(settle(answer, tiny, Clock(0, 0, 0.0), stop))
    await asyncio.sleep(0)
    stop.control(Cancel())
    with pytest.raises(Stopped):
        await running
    tiny.runner.pool.check_integrity([])


async def test_the_engine_gives_it_up_for_whatever_else_comes_and_does_not_begin_it_meanwhile(
    tmp_path: Path, home: Path
) -> None:
    spec = ModelSpec(model=str(scripted(tmp_path, FOR_EVER | SAYS_TWO)))
    engine = resident(Places(Path(os.environ["XDG_RUNTIME_DIR"]) / "engine.sock", home / "engine.log"))

    def asked(name: str) -> AnswerRequest:
        return AnswerRequest(id=name, spec=spec, messages=(Message("user", "?"),), think=1200, trace=True)

    async def last(events: object) -> object:
        heard = [event async for event in events]  # type: ignore[attr-defined]
        return heard[-1]

    try:
        first = await last(engine.answer(asked("a")))
        assert isinstance(first, Finished)
        probing = SettlingRequest(id="s", spec=spec, answer=first.answer)
        given_up, second = await asyncio.gather(
            last(engine.settling(probing)), last(engine.answer(asked("b")))
        )
        assert isinstance(given_up, Failed) and given_up.code == "cancelled"
        assert isinstance(second, Finished) and second.answer.answer == "2"
        again, refused = await asyncio.gather(
            last(engine.answer(asked("c"))), last(engine.settling(replace(probing, id="t")))
        )
        assert isinstance(again, Finished)
        assert isinstance(refused, Failed) and "something else" in refused.message
    finally:
        await engine.shutdown()
        await engine.close()
