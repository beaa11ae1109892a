"""What widgets tell the screen: facts, in the past tense."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass
class PromptSubmitted(Message):
    """A prompt or a slash command was sent."""

    text: str


@dataclass
class PromptEdited(Message):
    """The text being written changed."""

    text: str


@dataclass
class CompletionMoved(Message):
    """The highlight of the completions was moved: -1 up, +1 down."""

    direction: int


@dataclass
class CompletionChosen(Message):
    """A completion was picked: this one, or the highlighted one; `run` where it is to be sent at once."""

    text: str | None = None
    run: bool = False


@dataclass
class OfferMoved(Message):
    """The keyboard moved over what is offered: -1 up, +1 down."""

    direction: int


@dataclass
class OfferTaken(Message):
    """One of the things that are offered was chosen: this one, from 0, or the one that the keyboard is on."""

    index: int | None = None


@dataclass
class DialTurned(Message):
    """The dial was clicked: -1 for less, +1 for more."""

    direction: int


@dataclass
class TurnActedOn(Message):
    """Something was asked of a turn; `action` is the name of the screen's action for it."""

    turn_id: str
    action: str


@dataclass
class TranscriptLeft(Message):
    """The reader went back to the prompt."""


@dataclass
class EndFollowed(Message):
    """The transcript began to follow its end, or let go of it."""

    following: bool


@dataclass
class EndAsked(Message):
    """The reader wants to go back to the end."""


@dataclass
class EarlierTurnsAsked(Message):
    """The reader wants to see turns from before those that are shown."""


@dataclass
class ThoughtsToggled(Message):
    """The line of a thinking block was clicked."""
