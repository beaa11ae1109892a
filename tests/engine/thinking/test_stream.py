"""Text that streams is the text decoded at once, whatever the pieces."""

from importlib.resources import as_file, files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.load.tokenizer import HubTokenizer
from engine.thinking.stream import TextStream

with as_file(files("assets") / "tiny") as folder:
    tokenizer = HubTokenizer(Path(folder))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts, st.lists(st.integers(1, 5), max_size=80))
def test_the_pieces_of_any_text_make_up_the_whole(text: str, cuts: list[int]) -> None:
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer)
    pieces = []
    at = 0
    for size in [*cuts, len(ids)]:
        pieces.append(stream.feed(ids[at : at + size]))
        at += size
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_a_character_split_across_tokens_is_shown_once_it_is_whole() -> None:
    ids = tokenizer.encode("👩‍🚀")
    assert len(ids) > 3
    stream = TextStream(tokenizer)
    shown = [stream.feed([i]) for i in ids]
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown) + stream.flush() == "👩‍🚀"


@given(st.lists(st.integers(0, tokenizer.size - 1), max_size=60))
def test_any_tokens_stream_without_an_error_and_never_lose_the_readable_end(ids: list[int]) -> None:
    tail = tokenizer.encode(" 42 apples")
    stream = TextStream(tokenizer)
    text = "".join(stream.feed([i]) for i in [*ids, *tail]) + stream.flush()
    assert text.endswith(" 42 apples")


def test_what_never_becomes_a_character_is_marked_at_the_end() -> None:
    half = tokenizer.encode("é")[:1]
    if tokenizer.decode(half) != "\ufffd":
        pytest.fail("the test needs a token that is half a character")
    stream = TextStream(tokenizer)
    assert stream.feed(half) == ""
    assert stream.flush() == "\ufffd"
