"""From messages to a prompt's ids, made beside the event loop: texts may be long, and a template is foreign
code. Knows the tokenizer and the thinking format, not the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.backend import Tokenizer
from engine.protocol import Message
from engine.thinking.formats import Resolved
from engine.thinking.refusals import UsageError

Result = TypeVar("Result")

TIMEOUT_S = 20.0
LONGEST_TOKEN = 64
"""Characters per token beyond which no text of that many tokens is expected."""


@dataclass(frozen=True)
class Prompt:
    """A prompt's ids; `opened` where their end already stands inside an open thought."""

    ids: list[int]
    opened: bool


@dataclass(frozen=True)
class Renderer:
    """Renders messages as this model reads them, for a context of so many tokens."""

    tokenizer: Tokenizer
    style: Resolved | None
    context: int

    def is_hopeless(self, messages: Sequence[Message]) -> bool:
        """Whether it need not be rendered to know that it does not fit."""
        return sum(len(message.content) for message in messages) > self.context * LONGEST_TOKEN

    def render(self, messages: Sequence[Message], think: bool) -> Prompt:
        """The prompt that asks for an answer to these, with or without thoughts."""
        if self.style is None:
            return Prompt(self.tokenizer.render(messages), False)
        return Prompt(*self.style.prompt(self.tokenizer, messages, think))

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt without thoughts; where it is hopeless, one more than the context has."""
        return self.context + 1 if self.is_hopeless(messages) else len(self.render(messages, False).ids)

    async def prompt(self, messages: Sequence[Message], think: bool) -> Prompt:
        """As `render`, beside the event loop. Raises UsageError where it does not end."""
        return await aside(lambda: self.render(messages, think))


async def aside(work: Callable[[], Result]) -> Result:
    """Do what calls the template in a thread of its own. Raises UsageError where it does not end."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), TIMEOUT_S)
    except TimeoutError:
        raise UsageError(
            f"the model's chat template did not finish within {TIMEOUT_S:.0f} seconds",
            "use another model; `mull stop` ends this one",
        ) from None
