"""What can be counted of a question without understanding it. Knows no families, and keeps no word."""

from __future__ import annotations

import re

NAMES = (
    "numbers",
    "digits",
    "longest number",
    "plus and minus",
    "times and by",
    "equals",
    "brackets",
    "words",
    "names",
    "sentences",
    "commas",
    "lines",
)
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_NAME = re.compile(r"(?<![.?!:\n] )(?<!^)\b[A-Z][a-z]+\b")


def features(question: str) -> tuple[int, ...]:
    """A count for each of NAMES."""
    numbers = _NUMBER.findall(question)
    return (
        len(numbers),
        sum(map(len, numbers)),
        max(map(len, numbers), default=0),
        len(re.findall(r"[+\-−–]", question)),
        len(re.findall(r"[*×·/÷]|\btimes\b", question)),
        question.count("="),
        len(re.findall(r"[()\[\]{}]", question)),
        len(_WORD.findall(question)),
        len(_NAME.findall(question)),
        len(re.findall(r"[.?!](?:\s|$)", question)),
        question.count(","),
        len([line for line in question.splitlines() if line.strip()]),
    )
