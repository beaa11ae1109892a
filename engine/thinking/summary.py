"""A summary that stands for turns which no longer fit, written by the model itself. Never knows torch.

It is asked for at the end of the turns that it is to stand for: they are the beginning of the last prompt,
and thus in the prefix cache.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from itertools import accumulate

import msgspec

from engine.backend import Account, Backend, Lease, Sampler
from engine.protocol import Message
from engine.thinking.overflow import Conversation, Sizes
from engine.thinking.prompt import Renderer, aside

MOST_TOKENS = 256
"""Tokens of a summary at most: a page of text, and a few seconds to write on slow hardware."""
SHARE = 1 / 8
"""Of the context that a summary takes at most, for it is read with every answer from then on."""
WORDS_PER_TOKEN = 0.6
GREEDY = Sampler(temperature=0, top_p=1, top_k=0, seed=0)
LEAD = "Summary of the earlier conversation: "
GAP = "\n[…]\n"
"""Stands for the middle of a message that is too long to be read whole."""


def longest(context: int) -> int:
    """Tokens of a summary at most."""
    return min(MOST_TOKENS, int(context * SHARE))


@cache
def _request() -> str:
    text = resources.files("assets").joinpath("prompts.toml").read_text("utf-8")
    request: str = tomllib.loads(text)["summary"]["request"]
    return request


def told(messages: Sequence[Message], text: str, renderer: Renderer) -> tuple[Message, ...]:
    """The messages with a summary of what came before them in the system message.

    A template without one has it before the first question.
    """
    if not text:
        return tuple(messages)
    first, rest = messages[0], messages[1:]
    if first.role == "system":
        return (msgspec.structs.replace(first, content=f"{first.content}\n\n{LEAD}{text}"), *rest)
    if _takes_system(renderer):
        return (Message("system", LEAD + text), *messages)
    return (msgspec.structs.replace(first, content=f"{LEAD}{text}\n\n{first.content}"), *rest)


def _takes_system(renderer: Renderer) -> bool:
    try:
        renderer.render((Message("system", "."), Message("user", ".")), False)
    except Exception:  # a template is a program from elsewhere, and this is how it says no
        return False
    return True


@dataclass
class Writer:
    """Writes one summary, in parts where the turns are too many to be read at once."""

    backend: Backend
    renderer: Renderer
    lend: Callable[[int], Lease]
    """Gives a lease for so many tokens, which a cancellation reaches."""
    accounts: list[Account] = field(default_factory=list)
    """What the writing came to."""
    notices: list[str] = field(default_factory=list)

    async def write(self, talk: Conversation, sizes: Sizes, known: str, begin: int, end: int) -> str:
        """A summary of the exchanges up to `end`, of which `known` is one up to `begin`.

        Empty where the model had nothing to say, was cancelled, or has too small a context to be asked.
        """
        tokens = longest(self.renderer.context)
        request = Message("user", _request().format(words=int(tokens * WORDS_PER_TOKEN)))

        def prompted(part: Sequence[Sequence[Message]], text: str) -> tuple[Message, ...]:
            said = (message for exchange in part for message in exchange)
            return told((*talk.head, *said, request), text, self.renderer)

        text = known
        while begin < end:
            around = await aside(partial(lambda said: self.renderer.count(prompted((), said)), text))
            space = self.renderer.context - tokens - around
            reached = begin + _fitting(sizes.taken[begin:end], space)
            part = talk.exchanges[begin:reached]
            if reached == begin:
                exchange, reached = talk.exchanges[begin], begin + 1
                part = (await aside(partial(self._cut, exchange, sizes.taken[begin], space)),)
                if not part[0]:
                    return self._nothing("the context is too small to summarize in")
                self.notices.append(f"only the ends of {' and '.join(talk.names[begin])} were summarized")
            lease = self.lend(tokens)
            try:
                text = await self._written(await aside(partial(prompted, part, text)), lease)
            except MemoryError:
                return self._nothing("there is no memory to summarize in")
            if lease.cancelled:
                return ""
            if not text:
                return self._nothing("the model wrote no summary")
            begin = reached
        return text

    def _nothing(self, why: str) -> str:
        self.notices.append(f"{why}: the turns are left out without one")
        return ""

    def _cut(self, exchange: Sequence[Message], size: int, space: int) -> tuple[Message, ...]:
        """The exchange with the middle of its messages cut out, so that it takes `space` tokens and not
        `size`; nothing where nothing would be left.
        """
        encode, decode = self.renderer.tokenizer.encode, self.renderer.tokenizer.decode
        ids = [encode(message.content) for message in exchange]
        around = max(0, size - sum(map(len, ids))) + len(exchange) * len(encode(GAP))
        each = (space - around) // len(exchange) // 2
        if each < 1:
            return ()
        return tuple(
            message
            if len(own) <= 2 * each
            else msgspec.structs.replace(message, content=decode(own[:each]) + GAP + decode(own[-each:]))
            for message, own in zip(exchange, ids, strict=True)
        )

    async def _written(self, messages: Sequence[Message], lease: Lease) -> str:
        backend, style = self.backend, self.renderer.style
        prompt = await self.renderer.prompt(messages, think=False)
        markers = frozenset[int]() if style is None else style.markers
        node = await backend.prefill(prompt.ids, lease)
        try:
            self.accounts.append(node.account)
            if lease.cancelled:
                return ""
            eos = backend.tokenizer.eos_ids
            said = await backend.extend(node, "answer", lease, GREEDY, stop=eos, banned=markers)
            return backend.tokenizer.decode(said.ids).strip().rstrip("\ufffd")
        finally:
            await backend.cancel(node)


def _fitting(sizes: Sequence[int], space: int) -> int:
    """How many of these fit into the space, from the first on."""
    return sum(total <= space for total in accumulate(sizes))
