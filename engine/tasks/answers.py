"""Whether a reply has the right answer, by the kind of answer that its task asks for.

number  the last number of what the reply gives as its answer; separators, units, currency and percent signs
        are left out, fractions and powers of ten are read; compared by value
choice  the letter that it gives as its answer
math    as `number` where both are numbers, else the same but for algebra, spacing and dress
text    the same words, as the answer that it gives or at its end
exact   the same characters, but for white space around them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from engine.tasks.expressions import alike, value_of
from engine.tasks.extraction import (
    LONGEST,
    choice_in,
    given,
    last_line,
    number_in,
    plain_math,
    plain_words,
    whole_number,
)

Kind = Literal["number", "choice", "math", "text", "exact"]


def right(kind: Kind, answers: Sequence[str], reply: str, letters: str = "") -> bool:
    """Whether a reply has one of the right answers; of a choice, `letters` are those to choose from."""
    reply = reply[-LONGEST:]
    match kind:
        case "number":
            found = number_in(reply)
            return found is not None and any(found == number_in(answer) for answer in answers)
        case "choice":
            return choice_in(reply, letters) in answers
        case "math":
            return any(_same_math(given(reply) or last_line(reply), answer, reply) for answer in answers)
        case "text":
            said = [plain_words(part) for part in (given(reply), reply) if part]
            wanted = [plain_words(answer) for answer in answers]
            return any(
                want and (want == part or part.endswith(" " + want)) for want in wanted for part in said
            )
        case "exact":
            return any(reply.strip() == answer.strip() for answer in answers)


def _same_math(found: str, answer: str, reply: str) -> bool:
    one, other = plain_math(found), plain_math(answer)
    if one == other:
        return bool(one)
    value = whole_number(other)
    if value is not None:
        return value == (whole_number(one) if given(reply) else number_in(reply))
    first, second = alike((value_of(found), value_of(answer))).labels
    return first == second
