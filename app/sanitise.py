"""The one sanitizer at the display boundary: no text can steer the terminal, and nothing hides in it.

Storage keeps the raw text. Model output, error texts and the names of files, models and devices pass here.
"""

from __future__ import annotations

import re
import unicodedata

# Control sequences (ECMA-48) in their 7-bit and 8-bit forms. A string sequence (OSC, DCS, SOS, PM, APC) that
# is not closed on its line, or is absurdly long, is none: its text is shown, so that nothing can swallow an
# answer.
_CSI = r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}"
_STRING = r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x00-\x1f\x7f-\x9f]{0,4096}"
_ESCAPE = r"\x1b[ -/]{0,8}"
_SEQUENCE = re.compile(
    rf"{_CSI}[@-~]|{_STRING}(?:\x07|\x1b\\|\x9c)|\x1b(?:[ -/]{{1,8}}[0-~]|[0-OQ-WYZ\\`-~])"
)
_UNFINISHED = re.compile(rf"(?:{_CSI}|{_STRING}\x1b?|{_ESCAPE})\Z")
_INTRODUCER = re.compile("[\x1b\x90\x98\x9b\x9d-\x9f]")

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SPECIAL = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_ZWNJ, _ZWJ = "\u200c", "\u200d"


class Sanitiser:
    """Sanitizes a stream. Sequences and joined emoji may be cut anywhere between two chunks."""

    def __init__(self) -> None:
        self._held = ""
        self._last = ""

    def feed(self, text: str) -> str:
        """What may be shown by now; the start of a sequence is held back until it is known to be one."""
        return self._show(self._strip(self._held + text, final=False))

    def flush(self) -> str:
        """The rest, at the end of the stream."""
        text = self._show(self._strip(self._held, final=True))
        self._last = ""
        return text

    def _strip(self, text: str, *, final: bool) -> str:
        """`text` without sequences and controls, up to a sequence that is not complete yet."""
        kept: list[str] = []
        start = 0
        self._held = ""
        while introducer := _INTRODUCER.search(text, start):
            at = introducer.start()
            kept.append(text[start:at])
            if sequence := _SEQUENCE.match(text, at):
                start = sequence.end()
            elif not final and _UNFINISHED.match(text, at):
                self._held = text[at:]
                start = len(text)
            else:
                start = at + 1
        kept.append(text[start:])
        return _CONTROL.sub("", "".join(kept))

    def _show(self, text: str) -> str:
        """`text` with what is invisible made visible; `_last` is the character shown before it."""
        shown: list[str] = []
        start = 0
        for special in _SPECIAL.finditer(text):
            at = special.start()
            shown.append(text[start:at])
            before = text[at - 1] if at > start else self._last
            self._last = ""
            glyph = _visible(special.group(), before)
            shown.append(glyph)
            self._last = glyph[-1]
            start = at + 1
        shown.append(text[start:])
        if start < len(text):
            self._last = text[-1]
        return "".join(shown)


def clean(text: str) -> str:
    """A whole text, sanitized."""
    sanitiser = Sanitiser()
    return sanitiser.feed(text) + sanitiser.flush()


def clean_line(text: str) -> str:
    """A name or a message, sanitized and on one line."""
    return " ".join(clean(text).split())


def _visible(special: str, before: str) -> str:
    """A special character as it is shown after the character `before`."""
    if special in "\u2028\u2029":
        return "\n"
    if "\ud800" <= special <= "\udfff":
        return "\ufffd"
    if special == _ZWJ and _joins_emoji(before):
        return special
    if special in (_ZWJ, _ZWNJ) and _joins_letters(before):
        return special
    if "\ufe00" <= special <= "\ufe0f" and _takes_variation(before):
        return special
    return f"⟨U+{ord(special):04X}⟩"


def _joins_emoji(before: str) -> bool:
    return before == "\ufe0f" or (before != "" and unicodedata.category(before) in ("So", "Sk"))


def _joins_letters(before: str) -> bool:
    """Scripts from Arabic to Myanmar spell with joiners."""
    return "\u0600" <= before <= "\u109f" and unicodedata.category(before)[0] in "LM"


def _takes_variation(before: str) -> bool:
    """Symbols, keycaps and ideographs have variants; a run of selectors hides data."""
    return before != "" and (
        before in "#*0123456789" or unicodedata.category(before) in ("So", "Sm", "Po", "Lo")
    )
