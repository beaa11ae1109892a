"""A line of a task file as a problem: our own fields, or those of GSM8K, MATH and MMLU. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from engine.tasks.answers import Kind, right
from engine.tasks.extraction import boxed, number_in

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KINDS: tuple[Kind, ...] = get_args(Kind)
FIELDS = "prompt and answer, or as in GSM8K, MATH or MMLU"


class BadLine(Exception):
    """The line is no problem; the message goes on from its number, `hint` is the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class TaskLine:
    """A problem as a file states it. `answers` are those that are right, the first to be shown."""

    prompt: str
    answers: tuple[str, ...]
    kind: Kind
    family: str
    letters: str = ""

    def accepts(self, reply: str) -> bool:
        return right(self.kind, self.answers, reply, self.letters)


def read_line(line: bytes) -> TaskLine:
    """The problem that a line states. Raises BadLine."""
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BadLine("is not UTF-8", "save the file as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadLine(f"is not JSON ({getattr(error, 'msg', 'nested too deeply')})") from None
    if not isinstance(fields, dict):
        raise BadLine("is no JSON object", f"a problem has {FIELDS}")
    family = str(fields.get("family") or fields.get("subject") or "")
    if "problem" in fields and "solution" in fields:
        return _math(fields)
    prompt = _text(fields, "prompt" if "prompt" in fields else "question")
    if "answer" not in fields:
        raise BadLine("has no answer", f"a problem has {FIELDS}")
    kind = fields.get("type")
    if "choices" in fields:
        if kind not in (None, "choice"):
            raise BadLine(f"has choices, but its type is {kind!r}")
        return _choice(prompt, fields["choices"], fields["answer"], family)
    if "question" in fields and "prompt" not in fields and kind is None and "####" in str(fields["answer"]):
        return TaskLine(prompt, (str(fields["answer"]).rpartition("####")[2].strip(),), "number", family)
    answers = _answers(fields["answer"])
    if kind is None:
        kind = "number" if isinstance(fields["answer"], int | float) else "text"
    if kind not in KINDS:
        raise BadLine(f"has the type {kind!r}", f"types: {', '.join(KINDS)}")
    if kind == "number" and any(number_in(answer) is None for answer in answers):
        raise BadLine(f"has the type number, but its answer is {fields['answer']!r}")
    if kind == "choice":
        answers = tuple(answer.strip().strip("().").upper() for answer in answers)
        if not all(len(answer) == 1 and answer in LETTERS for answer in answers):
            raise BadLine(f"has the type choice, but its answer is {fields['answer']!r}", "a letter")
    return TaskLine(prompt, answers, cast(Kind, kind), family, LETTERS if kind == "choice" else "")


def _math(fields: dict[str, Any]) -> TaskLine:
    """As in MATH: what is boxed in the solution is the answer, where none is stated."""
    answer = str(fields["answer"]) if "answer" in fields else boxed(_text(fields, "solution"))
    if not answer:
        raise BadLine("has a solution without \\boxed{}", "state its answer")
    family = str(fields.get("subject") or fields.get("type") or "")
    return TaskLine(_text(fields, "problem"), (answer,), "math", family)


def _choice(question: str, choices: object, answer: object, family: str) -> TaskLine:
    """As in MMLU: a list of choices, and the right one by its number from 0, its letter or its text."""
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise BadLine(f"has choices that are no list of 2 to {len(LETTERS)}")
    texts = [str(choice).strip() for choice in choices]
    letters = LETTERS[: len(texts)]
    match answer:
        case bool():
            at = -1
        case int():
            at = answer if 0 <= answer < len(texts) else -1
        case str() if answer.strip() in letters and answer.strip():
            at = letters.index(answer.strip())
        case str() if answer.strip() in texts:
            at = texts.index(answer.strip())
        case _:
            at = -1
    if at < 0:
        raise BadLine(
            f"has the answer {answer!r}", f"a number from 0, a letter of {letters} or a choice's text"
        )
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
    prompt = f"{question}\n\n{listed}\n\nGive the letter of the right answer."
    return TaskLine(prompt, (letters[at],), "choice", family, letters)


def _answers(value: object) -> tuple[str, ...]:
    """What is right: a text, a number, or a list of such of which each is."""
    values: Sequence[object] = value if isinstance(value, list) else [value]
    if not values or any(isinstance(one, bool | dict | list) or one is None for one in values):
        raise BadLine(f"has the answer {value!r}", "a text, a number, or a list of such")
    answers = tuple(str(one) for one in values)
    if not all(answer.strip() for answer in answers):
        raise BadLine("has an empty answer")
    return answers


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadLine(f"has no {name}" if value is None else f"has a {name} that is no text", FIELDS)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadLine(f"has a {name} with half a character (a lone surrogate)") from None
    return value
