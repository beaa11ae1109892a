"""Token ids to text as they come: no half character, no special token, nothing decoded twice."""

from __future__ import annotations

from collections.abc import Iterable

from engine.backend import Tokenizer

WINDOW = 8
"""Ids before the new ones that are decoded with them: spacing and merges depend on neighbors."""
LONGEST = 4
"""Bytes of the longest UTF-8 sequence, and so the most ids that can be waiting for its rest."""


class TextStream:
    """Turns ids into text piece by piece; the pieces together equal the whole decoded at once.

    Ids whose text may still change (an unfinished UTF-8 sequence) wait for the rest, or for `flush`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._waiting: list[int] = []

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these ids complete."""
        ready = [*self._waiting, *ids]
        for back in range(min(LONGEST, len(ready) + 1)):
            part = ready[: len(ready) - back]
            text = self._tokenizer.decode([*self._context, *part])
            if not text.endswith("\ufffd"):
                self._waiting = ready[len(part) :]
                return self._take(part, text)
        self._waiting = []
        return self._take(ready, self._tokenizer.decode([*self._context, *ready]))

    def flush(self) -> str:
        """The text of what still waits, with U+FFFD for what never became a character."""
        rest, self._waiting = self._waiting, []
        return self._take(rest, self._tokenizer.decode([*self._context, *rest]))

    def _take(self, ids: list[int], text: str) -> str:
        """What `ids` add to the context, of which `text` is the decoding with them."""
        new = text[len(self._tokenizer.decode(self._context)) :]
        # the context must begin and end at a character's boundary, or it would decode differently next time
        self._context = [] if text.endswith("\ufffd") else [*self._context, *ids][-WINDOW:]
        while self._context and self._tokenizer.decode(self._context[:1]).startswith("\ufffd"):
            self._context = self._context[1:]
        return new
