"""The resident engine and its clients: attaching, queueing, handing over, and surviving each other."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil
import pytest

from engine.client import Places, ResidentEngine, resident
from engine.protocol import (
    Answer,
    AnswerNow,
    AnswerRequest,
    Cancel,
    Delta,
    EngineStatus,
    Event,
    Failed,
    Finished,
    Loaded,
    Loading,
    Message,
    Metered,
    ModelSpec,
    More,
    Queued,
    Sampling,
    Started,
    Think,
)
from engine.protocol.wire import Hello, Query, Shutdown, StatusFrame, Welcome, encode, read_client_frame

LONG = Sampling(temperature=99.0, seed=11)
"""So hot that the model babbles for two thousand tokens."""
STATUS = EngineStatus(
    pid=1,
    build="0.0.1+other",
    model=None,
    answering=1,
    queued=0,
    clients=1,
    memory_bytes=1,
    uptime_s=1.0,
    keep_alive_s=1.0,
    unloads_in_s=None,
    log="",
)


@pytest.fixture
def places(home: Path) -> Places:
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    return Places(runtime / "engine.sock", home / "engine.log")


@pytest.fixture
async def engine(places: Places) -> AsyncIterator[ResidentEngine]:
    engine = resident(places)
    yield engine
    await engine.shutdown()
    await engine.close()


def request(answer_id: str, think: Think = "max", **options: object) -> AnswerRequest:
    settings: dict[str, object] = {"spec": ModelSpec(), **options}
    return AnswerRequest(
        id=answer_id,
        messages=(Message("user", "What is 48 + 26?"),),
        think=think,
        **settings,  # type: ignore[arg-type]
    )


async def events_of(engine: ResidentEngine, asked: AnswerRequest) -> list[Event]:
    return [event async for event in engine.answer(asked)]


async def test_an_answer_tells_how_it_came_about_in_order(engine: ResidentEngine) -> None:
    events = await events_of(engine, request("a"))
    kinds = [type(event) for event in events]
    assert kinds[0] is Loading and kinds[-1] is Finished
    assert kinds.index(Loaded) < kinds.index(Started) < kinds.index(Delta) < kinds.index(Finished)
    finished = events[-1]
    assert isinstance(finished, Finished)
    for phase, text in (("thinking", finished.answer.thinking), ("answer", finished.answer.answer)):
        streamed = [e for e in events if isinstance(e, Delta) and e.phase == phase]
        assert "".join(delta.text for delta in streamed).strip() == text
    last = [event for event in events if isinstance(event, Metered)][-1]
    tokens = finished.answer.receipt.tokens
    assert (last.thinking_tokens, last.answer_tokens) == (tokens.thinking, tokens.answer)
    assert last.flops_prefill + last.flops_thinking + last.flops_answer > 0


async def test_a_second_turn_forwards_only_what_is_new(engine: ResidentEngine) -> None:
    first = finished(await events_of(engine, request("a")))
    conversation = (
        *request("a").messages,
        Message("assistant", first.answer, first.thinking),
        Message("user", "What is 12 + 30?"),
    )
    events = await events_of(engine, msgspec.structs.replace(request("b"), messages=conversation))
    before, after = first.receipt, finished(events).receipt
    assert before.tokens.cached == 0 and before.compute.flops_saved_by_cache.value == 0
    # the template leaves the thought out, so that the turns part where it began
    assert after.tokens.cached >= before.tokens.prompt - 1
    assert after.tokens.cached + after.tokens.prefilled == after.tokens.prompt
    assert after.steps[0].context == after.tokens.cached
    assert after.compute.flops_saved_by_cache.value > 0
    saved = after.time.saved_by_cache
    assert saved.method == "modelled" and 0 < saved.low <= saved.value <= saved.high
    assert [event for event in events if isinstance(event, Metered)][-1].cached_tokens == after.tokens.cached
    status = await engine.status()
    assert status is not None and status.kv_idle_bytes > 0


def finished(events: list[Event]) -> Answer:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.answer


async def test_waiting_for_the_model_is_load_and_not_part_of_the_total(engine: ResidentEngine) -> None:
    async def load() -> list[Event]:
        return [event async for event in engine.load(ModelSpec())]

    loading = asyncio.create_task(load())
    for _ in range(1000):
        if await engine.status() is not None:
            break
        await asyncio.sleep(0.01)
    began = time.monotonic()
    events = await events_of(engine, request("a"))
    wall = time.monotonic() - began
    assert isinstance((await loading)[-1], Loaded)
    finished = events[-1]
    assert isinstance(finished, Finished)
    times = finished.answer.receipt.time
    assert times.load.value and times.total.value and times.queue.value is not None
    assert times.load.value > 0
    assert times.queue.value <= times.total.value
    assert times.load.value + times.total.value <= wall, "no second is counted twice"


async def test_the_socket_is_the_users_alone(engine: ResidentEngine, places: Places) -> None:
    await events_of(engine, request("a"))
    assert stat.S_IMODE(places.socket.stat().st_mode) == 0o600


async def begun(engine: ResidentEngine, asked: AnswerRequest) -> AsyncGenerator[Event, None]:
    """The answer's stream, from after its first text on."""
    stream = engine.answer(asked)
    async for event in stream:
        if isinstance(event, Delta):
            return stream
    pytest.fail("it said nothing")


async def status_of(engine: ResidentEngine, condition: Callable[[EngineStatus], bool]) -> EngineStatus:
    """The engine's status when it first meets the condition."""
    for _ in range(1000):
        status = await engine.status()
        if status is not None and condition(status):
            return status
        await asyncio.sleep(0.01)
    pytest.fail("the engine does not come to it")


def spoken(events: list[Event]) -> tuple[str, str]:
    answer = finished(events)
    return answer.thinking, answer.answer


async def test_two_clients_are_answered_at_once_by_the_same_model(
    engine: ResidentEngine, places: Places
) -> None:
    alone = spoken(await events_of(engine, request("alone")))
    other = resident(places)
    first = await begun(engine, request("a", "off", sampling=LONG, max_tokens=3000))
    heard = await events_of(other, request("b"))
    assert not {Queued, Loaded, Loading} & set(map(type, heard))
    assert spoken(heard) == alone
    after = await anext(event async for event in first if isinstance(event, Delta))
    assert after.text, "the first goes on while the second has ended"
    await engine.control("a", Cancel())
    assert finished([event async for event in first]).finish == "cancelled"
    await other.close()


async def test_what_two_answers_say_arrives_interleaved(engine: ResidentEngine, places: Places) -> None:
    other = resident(places)
    await events_of(engine, request("warm"))
    order: list[str] = []

    async def follow(client: ResidentEngine, name: str) -> None:
        asked = request(name, "off", sampling=Sampling(temperature=99.0, seed=11), max_tokens=400)
        async for event in client.answer(asked):
            if isinstance(event, Delta):
                order.append(name)

    await asyncio.gather(follow(engine, "a"), follow(other, "b"))
    changes = sum(one != next for one, next in pairwise(order))
    assert changes > 2, "".join(order)
    await other.close()


async def test_cancelling_one_answer_leaves_the_others_as_they_would_have_been(
    engine: ResidentEngine, places: Places
) -> None:
    hot = {"sampling": Sampling(temperature=1.5, seed=3), "max_tokens": 200}
    alone = spoken(await events_of(engine, request("alone", 64, **hot)))
    first = await begun(engine, request("a", "off", sampling=LONG, max_tokens=3000))
    second = await begun(engine, request("b", "off", sampling=LONG, max_tokens=3000))
    third = asyncio.create_task(events_of(engine, request("c", 64, **hot)))
    await status_of(engine, lambda status: status.answering == 3)
    await engine.control("a", Cancel())
    assert finished([event async for event in first]).finish == "cancelled"
    assert spoken(await third) == alone
    assert isinstance(await anext(second), Delta | Metered), "nobody stopped this one"
    await second.aclose()
    await status_of(engine, lambda status: not status.answering)


async def test_another_model_waits_for_the_answers_under_way_and_is_not_overtaken(
    engine: ResidentEngine, places: Places
) -> None:
    other = resident(places)
    order: list[str] = []

    async def follow(client: ResidentEngine, asked: AnswerRequest) -> list[Event]:
        heard = []
        async for event in client.answer(asked):
            heard.append(event)
            if isinstance(event, Started):
                order.append(asked.id)
        return heard

    first = await begun(engine, request("a", "off", sampling=LONG, max_tokens=3000))
    second = asyncio.create_task(follow(other, request("b", spec=ModelSpec(context=128))))
    await status_of(engine, lambda status: status.queued == 1)
    third = asyncio.create_task(follow(other, request("c")))
    status = await status_of(engine, lambda status: status.queued == 2)
    assert status.answering == 1 and status.model is not None and status.model.context > 128
    await engine.control("a", Cancel())
    assert finished([event async for event in first]).finish == "cancelled"
    waited, late = await second, await third
    assert isinstance(waited[0], Queued) and waited[0].ahead == 1
    assert [event.ahead for event in late if isinstance(event, Queued)] == [2, 1]
    assert order == ["b", "c"]
    assert all(Loaded in map(type, heard) for heard in (waited, late))
    assert isinstance(waited[-1], Finished) and isinstance(late[-1], Finished)
    queue, load = (getattr(finished(waited).receipt.time, name).value for name in ("queue", "load"))
    assert queue > 0 and load > 0
    await other.close()


async def test_what_is_stopped_while_it_waits_does_not_begin(engine: ResidentEngine, places: Places) -> None:
    other = resident(places)
    first = await begun(engine, request("a", "off", sampling=LONG, max_tokens=3000))
    waiting = asyncio.create_task(events_of(other, request("b", spec=ModelSpec(context=128))))
    await status_of(engine, lambda status: status.queued == 1)
    await other.control("b", Cancel())
    heard = await waiting
    assert [type(event) for event in heard] == [Queued, Failed]
    assert isinstance(heard[-1], Failed) and heard[-1].code == "cancelled"
    gone = asyncio.create_task(events_of(other, request("c", spec=ModelSpec(context=128))))
    await status_of(engine, lambda status: status.queued == 1)
    await other.close()  # a client that goes takes what it waits for with it
    await status_of(engine, lambda status: not status.queued)
    await gone
    assert isinstance(await anext(first), Delta | Metered)
    await first.aclose()
    assert Loaded not in map(type, await events_of(engine, request("d"))), "no other model was loaded"


async def test_a_client_that_goes_stops_all_its_answers_and_no_other(
    engine: ResidentEngine, places: Places
) -> None:
    other = resident(places)
    kept = await begun(engine, request("a", "off", sampling=LONG, max_tokens=3000))
    streams = [await begun(other, request(name, "off", sampling=LONG, max_tokens=3000)) for name in "bc"]
    assert (await engine.status()).answering == 3  # type: ignore[union-attr]
    await other.close()
    await status_of(engine, lambda status: status.answering == 1)
    assert isinstance(await anext(kept), Delta | Metered)
    for stream in (kept, *streams):
        await stream.aclose()


async def test_an_engine_that_is_told_to_leave_ends_every_answer_with_its_receipt(
    engine: ResidentEngine, places: Places
) -> None:
    streams = [await begun(engine, request(name, "off", sampling=LONG, max_tokens=3000)) for name in "ab"]
    await resident(places).shutdown()
    for stream in streams:
        answer = finished([event async for event in stream])
        assert answer.finish == "cancelled" and answer.receipt.tokens.answer > 0


async def test_leaving_the_stream_stops_the_answer(engine: ResidentEngine) -> None:
    stream = engine.answer(request("a", "off", sampling=LONG, max_tokens=3000))
    async for event in stream:
        if isinstance(event, Delta):
            break
    await stream.aclose()
    for _ in range(200):
        status = await engine.status()
        assert status is not None
        if not status.answering:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the engine goes on answering nobody")


async def test_answer_now_and_more_reach_the_running_answer(engine: ResidentEngine) -> None:
    limits = set()
    raised = False
    async for event in engine.answer(request("a", 600, sampling=LONG)):
        if isinstance(event, Delta) and event.phase == "thinking" and not raised:
            raised = True
            await engine.control("a", More(200))
        elif isinstance(event, Metered):
            limits.add(event.thinking_limit)
            if event.thinking_limit == 800:
                await engine.control("a", AnswerNow())
        elif isinstance(event, Finished):
            assert event.answer.finish in ("budget", "length", "stop")
            assert event.answer.receipt.tokens.thinking < 800 and event.answer.answer
    assert 800 in limits


async def test_a_killed_engine_leaves_what_was_said_and_the_next_request_starts_another(
    engine: ResidentEngine,
) -> None:
    said = 0
    async for event in engine.answer(request("a", "off", sampling=LONG, max_tokens=3000)):
        if isinstance(event, Delta):
            said += 1
            if said == 3:
                status = await engine.status()
                assert status is not None
                os.kill(status.pid, signal.SIGKILL)
        last = event
    assert said >= 3 and isinstance(last, Failed) and last.code == "engine"
    again = await events_of(engine, request("b"))
    assert isinstance(again[-1], Finished)


async def test_an_engine_of_another_build_is_asked_to_leave_and_replaced(places: Places) -> None:
    left = asyncio.Event()

    async def attended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(await read_client_frame(reader), Hello)
        writer.write(encode(Welcome(build="0.0.1+other", pid=1)))
        frame = await read_client_frame(reader)
        assert frame == Shutdown(when_idle=True)
        server.close()
        places.socket.unlink(missing_ok=True)
        left.set()
        writer.close()

    server = await asyncio.start_unix_server(attended, places.socket)
    engine = resident(places)
    events = await events_of(engine, request("a"))
    assert left.is_set() and isinstance(events[-1], Finished)
    await engine.shutdown()
    await engine.close()


async def test_an_engine_of_another_build_is_shown_and_stopped_and_not_replaced_by_asking_for_it(
    places: Places,
) -> None:
    heard: list[object] = []

    async def attended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (frame := await read_client_frame(reader)) is not None:
            heard.append(frame)
            if isinstance(frame, Hello):
                writer.write(encode(Welcome(build="0.0.1+other", pid=1)))
            elif isinstance(frame, Query):
                writer.write(encode(StatusFrame(STATUS)))
            elif isinstance(frame, Shutdown):
                break
        writer.close()

    async with await asyncio.start_unix_server(attended, places.socket):
        engine = resident(places)
        assert await engine.status() == STATUS
        assert not any(isinstance(frame, Shutdown) for frame in heard)
        assert await engine.shutdown()
        assert heard[-1] == Shutdown(when_idle=False)
        await engine.close()


async def test_an_engine_that_does_not_answer_is_killed_when_told_to_stop(
    engine: ResidentEngine, places: Places
) -> None:
    await events_of(engine, request("a"))
    status = await engine.status()
    assert status is not None
    os.kill(status.pid, signal.SIGSTOP)
    assert await resident(places).shutdown()
    for _ in range(100):
        if not psutil.pid_exists(status.pid) or psutil.Process(status.pid).status() == "zombie":
            return
        await asyncio.sleep(0.02)
    pytest.fail("it still lives")


async def test_a_setting_of_one_request_does_not_stick_to_the_next(engine: ResidentEngine) -> None:
    small = await events_of(engine, request("a", spec=ModelSpec(context=128)))
    assert isinstance(small[-1], Finished)
    plain = await events_of(engine, request("b"))
    started = next(event for event in plain if isinstance(event, Started))
    assert started.context > 128 and Loaded in map(type, plain)


async def test_files_that_changed_on_disk_are_loaded_again(engine: ResidentEngine, tmp_path: Path) -> None:
    with as_file(files("assets") / "tiny") as tiny:
        folder = Path(shutil.copytree(tiny, tmp_path / "copy"))
    spec = ModelSpec(model=str(folder))
    await events_of(engine, request("a", spec=spec))
    assert Loaded not in map(type, await events_of(engine, request("b", spec=spec)))
    os.utime(folder / "model.safetensors")
    assert Loaded in map(type, await events_of(engine, request("c", spec=spec)))


async def test_a_chat_template_that_refuses_is_one_line_and_no_crash(
    engine: ResidentEngine, tmp_path: Path
) -> None:
    with as_file(files("assets") / "tiny") as tiny:
        folder = Path(shutil.copytree(tiny, tmp_path / "copy"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system messages') }}")
    failed = (await events_of(engine, request("a", spec=ModelSpec(model=str(folder)))))[-1]
    assert isinstance(failed, Failed) and failed.code == "model" and "no system messages" in failed.message


async def test_garbage_on_the_socket_harms_nobody(engine: ResidentEngine, places: Places) -> None:
    await events_of(engine, request("a"))
    for rubbish in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x04\xff\xff\xff\xff", b"\xff" * 64):
        with socket.socket(socket.AF_UNIX) as intruder:
            intruder.connect(str(places.socket))
            intruder.sendall(rubbish)
    assert isinstance((await events_of(engine, request("b")))[-1], Finished)


@pytest.mark.parametrize("what", ["missing", "of other shapes", "a pattern for nothing"])
async def test_a_model_that_cannot_be_loaded_leaves_the_engine_usable(
    engine: ResidentEngine, tmp_path: Path, what: str
) -> None:
    await events_of(engine, request("a"))
    folder, quant = tmp_path / "none", None
    if what != "missing":
        with as_file(files("assets") / "tiny") as tiny:
            shutil.copytree(tiny, folder)
    if what == "of other shapes":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    elif what == "a pattern for nothing":
        quant = "int8,nothing_like_it=int4"
    spec = ModelSpec(model=str(folder), quant=quant)
    wrong = AnswerRequest(id="b", spec=spec, messages=(Message("user", "x"),))
    failed = (await events_of(engine, wrong))[-1]
    assert isinstance(failed, Failed) and failed.code == ("usage" if quant else "model")
    after = await events_of(engine, request("c"))
    assert isinstance(after[-1], Finished) and Loaded not in map(type, after), "the loaded model was kept"


async def test_the_status_tells_of_model_clients_and_memory(engine: ResidentEngine) -> None:
    assert await engine.status() is None
    await events_of(engine, request("a"))
    status = await engine.status()
    assert status is not None and status.model is not None
    assert status.model.name == "tiny" and status.clients == 1 and status.answering == 0
    assert status.memory_bytes > status.model.weight_bytes
