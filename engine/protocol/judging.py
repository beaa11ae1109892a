"""How answers are compared and judged: the type that they have, and who chooses among several."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

AnswerType = Literal["number", "choice", "expression", "json", "code", "text"]
"""How two answers are compared: by value, letter, algebra, content, syntax tree or words."""

VerifierName = Literal["steps", "confidence", "tests", "judge", "consistency"]


class Verifier(Struct, frozen=True):
    """Who chooses among several answers.

    steps        a check of the sums in each thought
    confidence   how sure the model was of its tokens
    tests        Python tests, which are run against each answer's code; naming them allows that
    judge        the model, asked about pairs of answers, in either order
    consistency  the model, asked once which of at most four answers agrees best with the others
    """

    name: VerifierName
    tests: str = ""
    """The tests themselves, as Python."""
