"""The type of answers is found from what they look like, and the same answers are told as the same."""

from __future__ import annotations

import time

import pytest

from engine.protocol import AnswerType
from engine.tasks.answer_types import canonical, code_in, detect
from engine.tasks.expressions import TIME_LIMIT_S, alike

OPTIONS = "Which is it?\nA) Paris\nB) Rome\nC) Bonn"

DETECTED: list[tuple[str, str, AnswerType]] = [
    ("", "12+7=19\nThe answer is 19.", "number"),
    ("", "She has $1,200 left", "number"),
    ("", "21 August", "text"),
    ("", "Monday", "text"),
    ("", "(7*13)-2", "expression"),
    ("", "\\boxed{x^2 + 1}", "expression"),
    ("", "\\boxed{\\frac{1}{2}}", "number"),
    ("", "x = 5", "number"),
    (OPTIONS, "The answer is (B).", "choice"),
    ("", "The answer is (B).", "text"),
    ("", 'Here:\n```json\n{"a": 1}\n```', "json"),
    ("", "[1, 2]", "json"),
    ("", "```python\ndef f(): pass\n```", "code"),
    ("", "The sea is wide and blue.", "text"),
    ("", "I won't say {", "text"),
]

SAME: list[tuple[AnswerType, str, str]] = [
    ("number", "It is 1,234.50", "\\boxed{1234.5}"),
    ("number", "1/2", "0.5"),
    ("choice", "(B)", "The answer is B."),
    ("expression", "(7*13)-2", "13 × 7 − 2"),
    ("expression", "\\boxed{\\dfrac{x}{2}}", "$\\frac{x}{2}$"),
    ("json", '{"b": 1.0, "a": [1, 2]}', 'So:\n```json\n{"a":[1,2],\n"b":1}\n```\nDone.'),
    ("code", "```python\ndef f(x):\n    return x  # yes\n```", "def f( x ):\n  return (x)"),
    ("code", "First\n```\nlet a\n```\nthen\n```js\nlet b  \n```", "```\nlet b\n```"),
    ("text", "New  York!", "The answer is: new york"),
]

DIFFERENT: list[tuple[AnswerType, str, str]] = [
    ("number", "19", "-19"),
    ("text", "21 August", "21 July"),
    ("expression", "(7*13)-2", "7*13-3"),
    ("json", '{"a": 1}', '{"a": "1"}'),
    ("code", "```\na = 1\n```", "```\na = 2\n```"),
    ("text", "It is blue.\nSo there.", "It is red.\nSo there."),
]


@pytest.mark.parametrize(("question", "reply", "kind"), DETECTED)
def test_the_type_is_found(question: str, reply: str, kind: AnswerType) -> None:
    assert detect(question, [reply]) == kind


def test_the_type_is_that_of_most_replies() -> None:
    assert detect("", ["19", "about 20", "Monday"]) == "number"
    assert detect("", ["", "Monday", "  "]) == "text"
    assert detect("", []) == "text"


@pytest.mark.parametrize(("kind", "one", "other"), SAME)
def test_same_answers_are_the_same(kind: AnswerType, one: str, other: str) -> None:
    assert canonical(kind, one) == canonical(kind, other) != ""


@pytest.mark.parametrize(("kind", "one", "other"), DIFFERENT)
def test_different_answers_are_not(kind: AnswerType, one: str, other: str) -> None:
    assert canonical(kind, one) != canonical(kind, other)


@pytest.mark.parametrize("kind", ["number", "choice", "json", "code"])
def test_a_reply_without_an_answer_of_the_type_has_none(kind: AnswerType) -> None:
    assert canonical(kind, "Nothing at all, sorry {") == ""


def test_code_is_taken_out_of_its_fence_even_where_that_is_not_closed() -> None:
    assert code_in("See:\n```python\nx = 1\nprint(x)") == "x = 1\nprint(x)"
    assert code_in("  ```\n  x = 1\n  ```") == "x = 1"


def test_expressions_are_compared_by_algebra() -> None:
    texts = (
        "(x+1)^2",
        "x^2+2x+1",
        "x^2+1",
        "\\frac{1}{\\sqrt{2}}",
        "\\frac{\\sqrt{2}}{2}",
        "2sin(x)cos(x)",
        "sin(2x)",
    )
    labels = alike(texts).labels
    assert labels == tuple(texts[at] for at in (0, 0, 2, 3, 3, 5, 5))


def test_an_expression_that_never_ends_is_compared_as_written() -> None:
    began = time.monotonic()
    compared = alike(("9^(9^(9^9))x", "x+1", "1+x"))
    assert compared.labels == ("9^(9^(9^9))x", "x+1", "1+x") and "as written" in compared.note
    assert time.monotonic() - began < TIME_LIMIT_S + 20


@pytest.mark.parametrize(
    "text", ["__import__('os')", "x.real", "print(1)", "lambda: 1", "x\\foo{1}", "(" * 150, ""]
)
def test_what_is_no_expression_is_never_read_as_one(text: str) -> None:
    assert alike((text, "x+1")).labels == (text, "x+1")
