"""Which replies are right, by the type of the answer."""

from __future__ import annotations

import pytest

from engine.tasks.answers import Kind, right
from engine.tasks.extraction import boxed

RIGHT: list[tuple[Kind, str, str]] = [
    ("number", "42", "so 6*7=42."),
    ("number", "1234.5", "It is $1,234.50 in all"),
    ("number", "1000000", "1\u202f000\u202f000 people"),
    ("number", "-3", "x = \u22123"),
    ("number", "0.5", "\\boxed{\\frac{1}{2}}"),
    ("number", "70000", "about 7e4"),
    ("number", "18", "She makes 9*2=18 dollars a day.\n#### 18"),
    ("number", "18", "The answer is 18. Check: 5+13"),
    ("number", "18", "The answer is 9*2=18"),
    ("number", "12", "12%"),
    ("number", "0.75", "3/4"),
    ("number", "20", "Answer: 20 km/h"),
    ("number", "2/4", "0.5"),
    ("choice", "B", "The answer is (B)."),
    ("choice", "B", "**B**"),
    ("choice", "B", "B. Paris"),
    ("choice", "B", "A cat is B"),
    ("choice", "C", "Answer: C. Because A and B fail"),
    ("choice", "D", "so \\boxed{D}"),
    ("choice", "C", "First A, then B.\n\nC"),
    ("math", "\\frac{1}{2}", "so $\\boxed{\\dfrac12}$"),
    ("math", "x^2+1", "\\boxed{x^2 + 1}"),
    ("math", "(3,\\infty)", "thus \\boxed{\\left(3, \\infty\\right)}"),
    ("math", "5", "The answer is $5$."),
    ("math", "0.5", "\\boxed{\\frac{1}{2}}"),
    ("math", "5", "it is 5\nSo 5."),
    ("math", "90^\\circ", "\\boxed{90}"),
    ("math", "\\text{even}", "\\boxed{even}"),
    ("math", "11,\\!111", "\\boxed{11111}"),
    ("math", "(x+1)^2", "\\boxed{x^2+2x+1}"),
    ("math", "\\frac{\\sqrt{2}}{2}", "\\boxed{\\frac{1}{\\sqrt{2}}}"),
    ("text", "Paris", "The capital of France is Paris."),
    ("text", "New York", "new  york!"),
    ("text", "Saint-Malo", "\\boxed{saint malo}, I think"),
    ("exact", "a b", " a b\n"),
]
WRONG: list[tuple[Kind, str, str]] = [
    ("number", "5", "5 apples, then 6"),
    ("number", "10", "version v1.10"),
    ("number", "2", "H2O"),
    ("number", "7", ""),
    ("number", "1", "1/0"),
    ("choice", "A", "A cat is B"),
    ("choice", "E", "E"),
    ("choice", "A", "I do not know"),
    ("math", "x+1", "\\boxed{x-1}"),
    ("math", "2", "\\boxed{x=2y}"),
    ("math", "x^2", "\\boxed{2x}"),
    ("math", "1", "\\boxed{9^{9^{9^{9}}}}"),
    ("text", "Paris", "Parisian"),
    ("text", "Paris", "Paris is not it"),
    ("exact", "a", "A"),
]


@pytest.mark.parametrize(("kind", "answer", "reply"), RIGHT)
def test_a_right_reply_is_accepted(kind: Kind, answer: str, reply: str) -> None:
    assert right(kind, [answer], reply, "ABCD")
    assert right(kind, ["999" if kind != "choice" else "A", answer], reply, "ABCD"), "any of several"


@pytest.mark.parametrize(("kind", "answer", "reply"), WRONG)
def test_a_wrong_reply_is_not(kind: Kind, answer: str, reply: str) -> None:
    assert not right(kind, [answer], reply, "ABCD")


def test_the_last_box_counts_with_its_braces() -> None:
    assert boxed("\\boxed{1} then \\boxed{\\frac{a}{b}} and {") == "\\frac{a}{b}"
    assert boxed("\\boxed{1} and \\boxed{2") == "1"


def test_a_reply_of_megabytes_is_judged_in_no_time() -> None:
    assert right("number", ["7"], "1," * 2_000_000 + " 7")
    assert not right("math", ["7"], "\\boxed{" * 20_000)
    assert right("choice", ["B"], "A " * 200_000 + "\nB", "AB")
