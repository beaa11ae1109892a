"""Nothing that a model or a file says can steer the terminal or hide from its reader."""

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sanitise import Sanitiser, clean, clean_line

HOSTILE = [
    "\x1b", "\x1b[", "\x1b]", "\x1bP", "\x9b", "\x9d", "\x90", "\x07", "\x1b\\", "\x9c", "52;c;", "2J", "31m",
    ";", "\n", "\r", "\t", "\x00", "\x7f", "\u202e", "\u2066", "\u200b", "\u200d", "\u200c", "\ufe0f",
    "\u20e3", "👩", "💻", "1", "\U000e0041", "\ud83d", "\u2028", "a", "b", "ن", "漢", " ", "[/", "(", "B",
]  # fmt: skip
hostile_text = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=3), max_size=30).map("".join)

FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def in_chunks(text: str, cuts: list[int]) -> str:
    sanitiser = Sanitiser()
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    shown = "".join(sanitiser.feed(text[a:b]) for a, b in pairwise(edges))
    return shown + sanitiser.flush()


@given(hostile_text, st.lists(st.integers(0, 400), max_size=12))
def test_any_chunking_shows_the_same_text(text: str, cuts: list[int]) -> None:
    assert in_chunks(text, cuts) == clean(text)


@given(hostile_text)
def test_one_character_at_a_time_shows_the_same_text(text: str) -> None:
    assert in_chunks(text, list(range(len(text)))) == clean(text)


@given(hostile_text | st.text(st.characters()))
def test_no_forbidden_character_is_ever_shown(text: str) -> None:
    assert not FORBIDDEN.search(clean(text))


@given(hostile_text | st.text(st.characters()))
def test_a_sanitized_text_stays_as_it_is(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "M", "Lo"))))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b[2Jb", "ab"),
        ("a\x1b[1;31mred\x1b[0m", "ared"),
        ("\x1b]52;c;c2VjcmV0\x07x", "x"),
        ("\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x9cx", "x"),
        ("\x1bPq#0~\x1b\\x", "x"),
        ("\x9b31mx", "x"),
        ("\x9d52;c;AAAA\x07x", "x"),
        ("\x1b(Bx\x1bcx", "xx"),
        ("one\r\ntwo\tthree", "one\ntwo\tthree"),
        ("a\x00b\x7fc\x85d", "abcd"),
        ("user\u202egnp.exe", "user⟨U+202E⟩gnp.exe"),
        ("a\u200bb\ufeff", "a⟨U+200B⟩b⟨U+FEFF⟩"),
        ("hi\U000e0041", "hi⟨U+E0041⟩"),
        ("a\ufe0f\u200db", "a⟨U+FE0F⟩⟨U+200D⟩b"),
        ("\ud83d!", "\ufffd!"),
        ("a\u2028b", "a\nb"),
    ],
)
def test_what_is_hostile_is_dropped_or_made_visible(raw: str, shown: str) -> None:
    assert clean(raw) == shown


@pytest.mark.parametrize(
    "text", ["👩‍💻 👨‍👩‍👧 🏳️‍🌈 1️⃣ ❤️‍🔥 🧑🏽‍🚀", "می‌خواهم", "क्‍ष", "ein Wort: naïve — «ß»", "日本語のテキスト"]
)
def test_emoji_and_scripts_that_join_keep_their_joiners(text: str) -> None:
    assert clean(text) == text


def test_an_emoji_cut_at_its_joiner_comes_out_whole() -> None:
    sanitiser = Sanitiser()
    assert "".join(sanitiser.feed(character) for character in "👩‍💻") + sanitiser.flush() == "👩‍💻"


def test_a_sequence_that_is_never_closed_does_not_swallow_the_answer() -> None:
    assert clean("\x1b]52;c;\nthe answer is 42") == "]52;c;\nthe answer is 42"
    assert clean("\x1b]" + "x" * 10_000).endswith("x" * 10_000)


def test_text_is_shown_at_once_and_not_held_back() -> None:
    sanitiser = Sanitiser()
    assert sanitiser.feed("the answer") == "the answer"
    assert sanitiser.feed(" is \x1b[3") == " is "
    assert sanitiser.feed("1m42") == "42"


def test_a_name_is_shown_on_one_line() -> None:
    assert clean_line("  evil\n\x1b[2Jname\t.md ") == "evil name .md"


def test_every_invisible_format_character_of_unicode_is_made_visible_or_a_letter_of_its_script() -> None:
    visible_marks = re.compile(
        "[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U00013430-\U0001343f]"
    )
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) == "Cf" and not visible_marks.match(character):
            assert clean(f"x{character}").startswith("x⟨U+"), hex(code)
