"""What type of answer replies give, and each one's answer written as its type compares it. Knows no model.

number      the last number of what the reply gives as its answer, by its value
choice      the letter that it gives as its answer, of those that the question offers
expression  its arithmetic or LaTeX: by its value where it has one, else without spacing and dress
json        the last JSON object or array in it, keys sorted, no spaces
code        the last fenced block, or else the reply where it is Python; Python by its syntax tree
text        its words, of what it gives as its answer where it says so, else all of them
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from engine.protocol import AnswerType
from engine.tasks.expressions import alike, is_expression, value_of
from engine.tasks.extraction import LONGEST, choice_in, given, last_line, number_in, plain_words

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S)
_OPTION = re.compile(r"(?:^|(?<=\s))\(?([A-J])[).:] +\S", re.MULTILINE)
_CALENDAR = re.compile(
    r"\b(?:jan|febr)uary\b|\b(?:march|april|may|june|july|august)\b|\b(?:septem|octo|novem|decem)ber\b"
    r"|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b",
    re.IGNORECASE,
)
"""A date is more than its last number."""
MOST_JSON = 100
"""Places of a reply at which JSON is looked for, from its end."""
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Answers:
    """Replies' answers, written so that the same ones are the same text; empty where a reply gives none.

    `note` says in which way they were compared less well than their type allows.
    """

    kind: AnswerType
    labels: tuple[str, ...]
    note: str = ""


def compare(
    replies: Sequence[str], kind: AnswerType | None = None, question: str = "", *, algebra: bool = True
) -> Answers:
    """The answers of replies to one question. With `algebra`, expressions may take seconds."""
    kind = kind or detect(question, replies)
    labels = tuple(canonical(kind, reply, question) for reply in replies)
    if kind != "expression" or not algebra:
        return Answers(kind, labels)
    classes = alike(labels)
    return Answers(kind, classes.labels, classes.note)


def detect(question: str, replies: Sequence[str]) -> AnswerType:
    """The type that most of the replies have, the earlier one of the list above where two are as frequent."""
    found = Counter(_type_of(reply[-LONGEST:], letters_of(question)) for reply in replies if reply.strip())
    order: tuple[AnswerType, ...] = get_args(AnswerType)
    return max(order, key=lambda kind: found[kind]) if found else "text"


def canonical(kind: AnswerType, reply: str, question: str = "") -> str:
    """The reply's answer as its type compares it; empty where it gives none."""
    reply = reply[-LONGEST:]
    match kind:
        case "number":
            number = number_in(_said(reply))
            return "" if number is None else str(number)
        case "choice":
            return choice_in(reply, letters_of(question) or LETTERS) or ""
        case "expression":
            return value_of(_said(reply))
        case "json":
            return _json_in(reply)
        case "code":
            return _tidy(code_in(reply))
        case "text":
            return plain_words(given(reply) or reply) or (given(reply) or reply).strip()


def letters_of(question: str) -> str:
    """The letters of the options that a question lists, A first; none where there are fewer than two."""
    letters = "".join(sorted(set(_OPTION.findall(question))))
    return letters if len(letters) > 1 and LETTERS.startswith(letters) else ""


def code_in(reply: str) -> str:
    """The last fenced block of a reply, or the reply where it has none and is Python."""
    blocks = _FENCE.findall(reply)
    if blocks:
        return textwrap.dedent(blocks[-1][2]).strip("\n")
    return reply.strip() if _parsed(reply) is not None else ""


def _type_of(reply: str, letters: str) -> AnswerType:
    fences = [language.lower() for _, language, _ in _FENCE.findall(reply)]
    if (fences and fences[-1] == "json") or (reply.strip()[0] in "{[" and _json_in(reply)):
        return "json"
    if fences:
        return "code"
    if letters and choice_in(reply, letters):
        return "choice"
    said = _said(reply)
    if is_expression(said):
        return "expression"
    return "number" if number_in(said) is not None and not _CALENDAR.search(said) else "text"


def _said(reply: str) -> str:
    return given(reply) or last_line(reply)


def _json_in(reply: str) -> str:
    decoder = json.JSONDecoder()
    blocks = [body for _, language, body in _FENCE.findall(reply) if language.lower() in ("json", "")]
    for text in (*reversed(blocks), reply):
        begins = [at for at, sign in enumerate(text) if sign in "{["]
        found, end = None, -1
        for at in begins[:MOST_JSON]:
            if at < end:
                continue  # inside the last one found
            try:
                found, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                pass
        if end >= 0:
            return json.dumps(_plain(found), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return ""


def _plain(value: object) -> object:
    """JSON in which 1.0 is 1."""
    match value:
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case list():
            return [_plain(one) for one in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _tidy(code: str) -> str:
    """Python without comments and layout; other code without white space at its lines' ends."""
    tree = _parsed(code)
    if tree is not None:
        return ast.unparse(tree)
    return "\n".join(line.rstrip() for line in code.splitlines() if line.strip())


def _parsed(code: str) -> ast.Module | None:
    """Python with something in it that is not a mere word or sum."""
    try:
        tree = ast.parse(code)
        return tree if any(not isinstance(one, ast.Expr) for one in tree.body) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
