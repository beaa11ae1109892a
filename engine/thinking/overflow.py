"""Which turns a conversation leaves out that has outgrown the context, so that the prefix cache still helps.

Knows messages and how many tokens they take; no backend and no torch.

A prompt that begins like the last one is not read again. Leaving out one turn more with each question would
change the beginning each time, and the whole rest would be read anew for every answer. So a full context is
emptied to its half at once, and the turns after that go on from the same beginning until it is full again.
Where to cut follows from the conversation alone: it is gone through question by question, as it grew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.protocol import Message

KEPT_SHARE = 1 / 2
"""What a full context is emptied to: reading it anew then pays for three eighths of a context of further
turns. Less would forget more than it saves, more would be full again after a few turns.
"""
ROOM_SHARE = 1 / 8
"""What a conversation leaves of the context for thoughts and answer where turns may be left out."""


@dataclass(frozen=True)
class Conversation:
    """Messages as that which they can be cut into: each exchange begins with a question, the last is one."""

    head: tuple[Message, ...]
    """The system message, which always stays."""
    exchanges: tuple[tuple[Message, ...], ...]
    names: tuple[tuple[str, ...], ...]
    """What a receipt calls the messages of each exchange."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Conversation:
        """Cut these, of which the last is the person's, before each message of the person."""
        begin = next((at for at, message in enumerate(messages) if message.role != "system"), 0)
        starts = [at for at in range(begin + 1, len(messages)) if messages[at].role == "user"]
        spans = list(zip([begin, *starts], [*starts, len(messages)], strict=True))
        names = [message.id or f"message {number}" for number, message in enumerate(messages, 1)]
        return cls(
            head=tuple(messages[:begin]),
            exchanges=tuple(tuple(messages[first:last]) for first, last in spans),
            names=tuple(tuple(names[first:last]) for first, last in spans),
        )

    @property
    def question(self) -> tuple[Message, ...]:
        """What is asked, without anything before it but the system message."""
        return (*self.head, *self.exchanges[-1])

    def from_exchange(self, cut: int) -> tuple[Message, ...]:
        """What is left where the first `cut` exchanges are left out."""
        return (*self.head, *(message for exchange in self.exchanges[cut:] for message in exchange))

    def left_out(self, cut: int) -> tuple[str, ...]:
        """The names of the messages before an exchange."""
        return tuple(name for exchange in self.names[:cut] for name in exchange)

    def covered(self, turns: Sequence[str]) -> int:
        """How many exchanges these names stand for, from the first on; 0 where they are of another path."""
        for cut in range(1, len(self.exchanges)):
            if self.left_out(cut) == tuple(turns):
                return cut
        return 0


@dataclass(frozen=True)
class Sizes:
    """Tokens of a conversation, exchange by exchange."""

    asked: tuple[int, ...]
    """Of the prompt in which each question would be asked alone, the system message included."""
    taken: tuple[int, ...]
    """That each exchange but the last adds to the prompts after it."""

    @classmethod
    def of(cls, conversation: Conversation, count: Callable[[Sequence[Message]], int]) -> Sizes:
        """Measure each exchange between the system message and the next question, as `count` has it."""
        head, exchanges = conversation.head, conversation.exchanges
        asked = tuple(count((*head, exchange[0])) for exchange in exchanges)
        taken = tuple(
            count((*head, *exchange, following[0])) - tokens
            for exchange, following, tokens in zip(exchanges[:-1], exchanges[1:], asked[1:], strict=True)
        )
        return cls(asked, taken)


def dropped(sizes: Sizes, context: int) -> int:
    """How many exchanges are left out at the last question, given what was left out at those before it."""
    full = context - room(context)
    cut = kept = 0
    for number, question in enumerate(sizes.asked):
        if kept + question > full:
            cut, kept = shortened(sizes, context, cut, number)
        kept += sum(sizes.taken[number : number + 1])
    return cut


def shortened(sizes: Sizes, context: int, cut: int, number: int, beside: int = 0) -> tuple[int, int]:
    """Leave out more than the first `cut` exchanges, until the prompt of a question, with `beside` tokens
    more, takes half the context. Returns the new cut and the tokens of the exchanges that are kept before it.
    """
    kept = sum(sizes.taken[cut:number])
    while cut < number and kept + sizes.asked[number] + beside > context * KEPT_SHARE:
        kept -= sizes.taken[cut]
        cut += 1
    return cut, kept


def room(context: int) -> int:
    """Tokens that a conversation from which turns may be left out leaves for thoughts and answer."""
    return int(context * ROOM_SHARE)
