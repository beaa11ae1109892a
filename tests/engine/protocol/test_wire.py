"""Frames survive the wire whole, and what is no frame is refused."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import AnswerRequest, Delta, Message, ModelSpec
from engine.protocol.wire import (
    MAX_FRAME,
    Ask,
    EventFrame,
    FrameError,
    encode,
    read_client_frame,
    read_engine_frame,
)


def reader_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(texts, max_size=5), st.integers(0, 10**6))
def test_any_request_comes_out_as_it_went_in(contents: list[str], think: int) -> None:
    request = AnswerRequest(
        id="a",
        spec=ModelSpec(),
        messages=tuple(Message("user", content) for content in contents),
        think=think,
    )

    async def journey() -> object:
        return await read_client_frame(reader_of(encode(Ask(request))))

    assert asyncio.run(journey()) == Ask(request)


async def test_frames_that_arrive_in_pieces_are_read_one_by_one() -> None:
    frames = [EventFrame("a", Delta(candidate="0", phase="answer", text=t, tokens=1)) for t in ("x", "y")]
    reader = asyncio.StreamReader()
    data = b"".join(encode(frame) for frame in frames)

    async def drip() -> None:
        for i in range(len(data)):
            reader.feed_data(data[i : i + 1])
            await asyncio.sleep(0)
        reader.feed_eof()

    task = asyncio.create_task(drip())
    assert [await read_engine_frame(reader) for _ in range(3)] == [*frames, None]
    await task


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa4type\xa4nope", b"GET / HTTP/1.1\r\n"])
async def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        await read_client_frame(reader_of(struct.pack(">I", len(body)) + body))


async def test_a_frame_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    with pytest.raises(FrameError):
        await read_client_frame(reader_of(struct.pack(">I", MAX_FRAME + 1)))


@given(st.binary(max_size=64))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    async def journey() -> None:
        try:
            await read_client_frame(reader_of(data))
        except FrameError:
            pass

    asyncio.run(journey())
