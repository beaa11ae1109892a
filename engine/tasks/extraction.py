"""Reads answers out of replies: what a reply gives as its answer, numbers, letters, LaTeX, words. Pure.

What a reply gives as its answer is in its last \\boxed{}, or follows `####`, `answer is` or `answer:`.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_MINUS = str.maketrans("\u2212\u2013\u2012", "---")
_SEPARATORS = re.compile(r"(?<=\d)(?:,\\!|,|_|\\,|\{,\}|[\u00a0\u2009\u202f\u2019'])(?=\d{3}(?!\d))")
_NUMBER = re.compile(
    r"(?<![\w.])-?(?:\$|€|£)?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\d)| ?/ ?\d+(?:\.\d+)?(?![\d/]))?"
)
_FRACTION = re.compile(r"\\[dt]?frac ?\{ ?(-?\d+) ?\} ?\{ ?(-?\d+) ?\}|\\[dt]?frac ?(\d) ?(\d)")
_SAID = re.compile(r"(?:####|\banswer(?: is|:|\*\*:|:\*\*)(?: *:)?)[ \t]*(\S[^\n]*)", re.IGNORECASE)
_LETTER = re.compile(r"(?<![\w'])\(?\*{0,2}([A-Z])\*{0,2}\)?(?![\w'])")
_DRESS = re.compile(
    r"\\left|\\right|\\displaystyle|\\[!,;: ]|\\(?:text|mbox|mathrm) ?\{ ?(?:cm|mm|km|m|inches|feet|units?"
    r"|degrees|dollars|cents|hours?|minutes?|seconds?|square units?)[^}]*\}|\^ ?\\circ|\^ ?\{ ?\\circ ?\}"
    r"|\\circ|\\?%|\\?\$|\s|~"
)
_BRACE = re.compile(r"\\f?boxed ?\{|\{|\}")
LONGEST = 200_000
"""Characters of a reply that are looked at, from its end."""


def number_in(text: str) -> Fraction | None:
    """The last number of what the text gives as its answer, else of the text."""
    for part in (given(text), text):
        if part:
            plain = unicodedata.normalize("NFKC", _SEPARATORS.sub("", part.translate(_MINUS)))
            plain = _FRACTION.sub(_as_quotient, plain).replace("\u2044", "/").replace("\\$", "$")
            if found := _NUMBER.findall(plain):
                return _value(found[-1])
    return None


def choice_in(reply: str, letters: str) -> str | None:
    """The letter of those given that the reply chooses: in what it gives as its answer, or alone on a line,
    or else the last that stands by itself.
    """
    for part in (given(reply), *reversed(reply.splitlines())):
        if part and (bare := _LETTER.fullmatch(part.strip().rstrip(".,:;!"))) and bare[1] in letters:
            return bare[1]
    for part in (given(reply), reply):
        found = [match for match in _LETTER.finditer(part or "") if match[1] in letters]
        # `A` and `I` before a word are words
        found = [
            match
            for match in found
            if not (match[0] in "AI" and re.match(r" [a-z]", match.string[match.end() :]))
        ]
        if found:
            return (found[0] if part is not reply else found[-1])[1]
    return None


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{} that is closed."""
    open_at: list[int | None] = []
    last = (-1, 0)
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            open_at.append(brace.end() if len(brace[0]) > 1 else None)
        elif open_at and (begin := open_at.pop()) is not None:
            last = max(last, (begin, brace.start()))
    return text[slice(*last)] if last[0] >= 0 else None


def given(text: str) -> str | None:
    """What the text gives as its answer, where it says so."""
    inside = boxed(text)
    if inside is not None:
        return inside
    said = _SAID.findall(text)
    return re.split(r"(?<=[.;!]) +(?=[A-Z])", said[-1])[0].strip() if said else None


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _value(text: str) -> Fraction | None:
    whole, _, below = re.sub(r"[$€£ ]", "", text).partition("/")
    try:
        return Fraction(whole) / Fraction(below or "1")
    except (ValueError, ZeroDivisionError):
        return None


def _as_quotient(found: re.Match[str]) -> str:
    above, below = found[1] or found[3], found[2] or found[4]
    return f" {above}/{below}"


def plain_words(text: str) -> str:
    """Words alone: no case, no punctuation, no accents' compositions, single spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", plain).split())


def plain_math(text: str) -> str:
    """LaTeX without spacing and dress: one way of writing for what means the same."""
    text = _SEPARATORS.sub("", text.translate(_MINUS).strip().rstrip("."))
    text = _DRESS.sub("", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\(?:text|mbox|mathrm|textbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"^[a-zA-Z]=", "", text)
    return text


def whole_number(plain: str) -> Fraction | None:
    """The value of LaTeX that is a number and nothing else."""
    text = _FRACTION.sub(_as_quotient, plain).replace("- ", "-").strip()
    return _value(text) if _NUMBER.fullmatch(text) else None
