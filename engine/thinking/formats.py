"""Thinking formats: how a loaded model marks its thoughts, switches them on and off, and is made to end them.

The markers are resolved to ids of the loaded tokenizer; where that fails, a budget could not be enforced, so
it is an error and never silent. What is known of which family lies in `families`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.backend import Tokenizer
from engine.protocol import Message
from engine.thinking.families import FORMATS, ThinkingFormat


class UnresolvedMarkers(ValueError):
    """The template marks thinking, but the tokenizer has no single token for a marker."""


@dataclass(frozen=True)
class Resolved:
    """A format with its markers as ids of one tokenizer; None for those that it does without."""

    format: ThinkingFormat
    start: int | None
    end: int | None
    opening: tuple[int, ...]
    forced_end: tuple[int, ...]
    answer_opening: tuple[int, ...]

    @property
    def starts(self) -> frozenset[int]:
        """The ids that open a thought."""
        return frozenset() if self.start is None else frozenset({self.start})

    @property
    def ends(self) -> frozenset[int]:
        """The ids that end one."""
        return frozenset() if self.end is None else frozenset({self.end})

    @property
    def markers(self) -> frozenset[int]:
        """All that are nobody's text."""
        return self.starts | self.ends

    def to_open(self, opened: bool) -> int:
        """Tokens that are forced to begin a thought after a prompt."""
        return 0 if opened else len(self.opening)

    def step_ends(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Ids that end a step of a thought; those of a line where no id ends with the separator."""
        return tokenizer.ending(self.format.step_end) or tokenizer.ending("\n")

    def prompt(
        self, tokenizer: Tokenizer, messages: Sequence[Message], think: bool
    ) -> tuple[list[int], bool]:
        """The prompt's ids, and whether its end already stands inside an open thought."""
        arguments = self.format.on if think else self.format.off or {}
        ids = tokenizer.render(messages, **arguments)
        tail = ids[-4:]  # a template opens the thought at most with the marker and white space after it
        opened = self.start in tail and self.end not in tail[tail.index(self.start) :]
        if opened and not think:
            return [*ids, *self.forced_end], False
        if not think:
            ids += tokenizer.encode(self.format.skip)
        return ids, opened


def resolve(tokenizer: Tokenizer, name: str | None = None) -> Resolved | None:
    """The format of this tokenizer: the one named, else the first whose signs its template has; None if none.

    Raises UnresolvedMarkers.
    """
    for candidate in FORMATS:
        matches = all(sign in tokenizer.chat_template for sign in candidate.signs)
        if candidate.name == name or (name is None and matches):
            return _resolved(tokenizer, candidate)
    return None


def _resolved(tokenizer: Tokenizer, found: ThinkingFormat) -> Resolved:
    ids: list[int | None] = []
    for marker in (found.start, found.end):
        if not marker:
            ids.append(None)
            continue
        encoded = tokenizer.encode(marker)
        if len(encoded) != 1 or tokenizer.decode(encoded) != marker:
            raise UnresolvedMarkers(
                f"the model marks its thinking with {marker!r} ({found.name}), but its tokenizer has no "
                "single token for it, so that thinking cannot be limited"
            )
        ids.append(encoded[0])
    start, end = ids
    opening, forced = (
        tuple(tokenizer.encode(text)) for text in (found.opening or found.start, found.forced_end)
    )
    for token, phrase, what in ((start, opening, "begins"), (end, forced, "ends")):
        if token is not None and token not in phrase:
            raise UnresolvedMarkers(
                f"the phrase that {what} a thought ({found.name}) loses its marker in this tokenizer"
            )
    return Resolved(found, start, end, opening, forced, tuple(tokenizer.encode(found.answer_opening)))
