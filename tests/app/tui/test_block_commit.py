"""Blocks are committed once, and nothing is lost on the way."""

from hypothesis import given
from hypothesis import strategies as st

from app.tui.block_commit import BlockCommit

LINES = st.sampled_from(
    [
        "",
        " ",
        "text",
        "# title",
        "- item",
        "```",
        "````",
        "```python",
        "~~~",
        "~~~~",
        "  ```",
        "a ``` b",
        "```x```",
    ]
)
DOCUMENTS = st.lists(LINES, max_size=30).map("\n".join)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A document and a way to cut it into chunks."""
    document = draw(st.one_of(DOCUMENTS, st.text(max_size=80)))
    cuts = sorted(draw(st.lists(st.integers(0, len(document)), max_size=12)))
    return document, [document[a:b] for a, b in zip([0, *cuts], [*cuts, len(document)], strict=True)]


def run(chunks: list[str]) -> tuple[str, str]:
    """The text committed before the end, and the rest."""
    blocks = BlockCommit()
    committed = "".join(blocks.feed(chunk) for chunk in chunks)
    return committed, blocks.finish()


@given(chunked())
def test_any_chunking_commits_the_same_blocks_and_the_whole_text(cut: tuple[str, list[str]]) -> None:
    document, chunks = cut
    committed, rest = run(chunks)
    assert committed + rest == document
    assert (committed, rest) == run([document])


@given(chunked())
def test_what_is_not_committed_is_the_tail_at_every_moment(cut: tuple[str, list[str]]) -> None:
    blocks, fed, committed = BlockCommit(), "", ""
    for chunk in cut[1]:
        committed += blocks.feed(chunk)
        fed += chunk
        assert committed + blocks.tail == fed


def test_a_paragraph_is_committed_at_the_blank_line_after_it() -> None:
    assert run(["one\n\ntw", "o"]) == ("one\n\n", "two")


def test_a_blank_line_inside_a_fence_commits_nothing() -> None:
    assert run(["```\na\n\nb\n"]) == ("", "```\na\n\nb\n")
    assert run(["~~~\na\n\nb\n~~~\n\nend"]) == ("~~~\na\n\nb\n~~~\n\n", "end")


def test_a_fence_is_closed_only_by_its_own_marks_at_least_as_many_and_nothing_else() -> None:
    for inside in ("```", "~~~", "~~~~", "```` x"):
        assert run([f"````\n{inside}\n\n"]) == ("", f"````\n{inside}\n\n")
    assert run(["```\n`````\n\n"]) == ("```\n`````\n\n", "")


def test_inline_code_of_three_backticks_opens_no_fence() -> None:
    assert run(["```x``` is code\n\nnext"]) == ("```x``` is code\n\n", "next")


def test_the_code_of_an_open_fence_is_known_without_its_first_line() -> None:
    blocks = BlockCommit()
    blocks.feed("Look:\n\n```python\nprint(1)\npri")
    assert blocks.open_code == "print(1)\npri"
    blocks.feed("nt(2)\n```\n")
    assert blocks.open_code is None
