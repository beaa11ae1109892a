"""Token ids to text as they come: no half character, no special token, nothing decoded twice."""

from __future__ import annotations

from collections.abc import Iterable

from engine.backend import Tokenizer

WINDOW = 8
"""Ids before the new ones that are decoded with them: spacing and merges depend on neighbours."""


class TextStream:
    """Turns ids into text piece by piece; the pieces together equal the whole decoded at once.

    Text that may still change (an unfinished UTF-8 sequence) is held back until it is complete, or `flush`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._held: list[int] = []

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these ids complete."""
        self._held.extend(ids)
        return self._take(final=False)

    def flush(self) -> str:
        """What is still held back, with U+FFFD for what never became a character."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        if not self._held:
            return ""
        before = self._tokenizer.decode(self._context)
        whole = self._tokenizer.decode([*self._context, *self._held])
        if whole.endswith("\ufffd") and not final and len(self._held) < WINDOW:
            return ""
        # the window must begin and end at a character's boundary, or its own decoding would differ next time
        self._context = [] if whole.endswith("\ufffd") else [*self._context, *self._held][-WINDOW:]
        while self._context and self._tokenizer.decode(self._context[:1]).startswith("\ufffd"):
            self._context = self._context[1:]
        self._held = []
        return whole[len(before) :]
