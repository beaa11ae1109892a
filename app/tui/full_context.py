"""What can be done where a conversation outgrows the context, in words. Pure values."""

from __future__ import annotations

from typing import Literal

from engine.protocol import Overflow

CHOICES: tuple[tuple[Overflow, str], ...] = (
    ("stop", "there is no answer, and you are asked what to do"),
    ("drop", "the oldest turns are left out"),
    ("summarize", "a summary by the model stands for the oldest turns"),
)
"""What may be chosen for a conversation, and what happens when the context is full."""

WayOut = Literal["drop", "summarize", "new"]

WAYS_OUT: tuple[tuple[WayOut, str, str], ...] = (
    ("drop", "Drop the oldest turns", "the model is not told of them; they stay here"),
    ("summarize", "Summarize the oldest turns", "the model does it, and is told what it wrote"),
    ("new", "New conversation", "with this question; the one here is kept"),
)
"""What may be chosen when there was no answer: its title, and what follows from it."""


def effect(overflow: Overflow) -> str:
    """What a choice means, and where it is changed."""
    return (
        f"When the context is full, {dict(CHOICES)[overflow]}. "
        "/overflow changes that here; overflow in config.toml, for all conversations."
    )
