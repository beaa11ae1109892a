"""Make the conversation fit into the context as the person chose: whole, without its oldest turns, or with a
summary in their place; or say why it cannot be. Never silently; never knows torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from engine.backend import Account, Backend, Lease
from engine.protocol import AnswerRequest, Event, Message, Notice, Overflow, Summary
from engine.thinking.budget import RESERVE_TOKENS
from engine.thinking.overflow import Conversation, Sizes, dropped, room, shortened
from engine.thinking.prompt import Prompt, Renderer, aside
from engine.thinking.refusals import Overflowing, TooLong
from engine.thinking.summary import Writer, longest, told

LEAST_ROOM = 2
"""Tokens that an answer needs at the very least, where there is nothing to leave out."""


@dataclass(frozen=True)
class Fitted:
    """What is sent to the model, and what is not."""

    messages: tuple[Message, ...]
    prompt: Prompt
    turns_left_out: tuple[str, ...] = ()
    summary: Summary | None = None
    hidden: tuple[Account, ...] = ()
    """The work that the summary took."""
    notices: tuple[str, ...] = ()


async def fit(
    request: AnswerRequest,
    backend: Backend,
    renderer: Renderer,
    think: bool,
    emit: Callable[[Event], None],
    lend: Callable[[int], Lease],
) -> Fitted:
    """The request's messages as they fit into the context, the prompt rendered with or without thoughts.

    `lend` gives leases for work before the answer. Raises TooLong where the question alone is too long, and
    Overflowing where turns would have to be left out and the request does not say how.
    """
    talk = Conversation.of(request.messages)
    context = renderer.context
    whole = None
    if not renderer.is_hopeless(request.messages):
        whole = await renderer.prompt(request.messages, think)
        if context - len(whole.ids) >= _needed(request.overflow, context):
            return Fitted(request.messages, whole)
    alone = await aside(partial(renderer.count, talk.question))
    if context - alone < LEAST_ROOM:
        raise TooLong(
            f"the question alone takes {_size(renderer, talk.question, alone)}, "
            f"and the context has {context:,}",
            "shorten it" + _larger(backend),
        )
    if whole is not None and len(talk.exchanges) == 1:
        return Fitted(request.messages, whole)
    if request.overflow == "stop":
        taken = context + 1 if whole is None else len(whole.ids)
        raise Overflowing(
            f"the conversation takes {_size(renderer, request.messages, taken)}, which leaves too little of "
            f"the context's {context:,} for an answer",
            "drop its oldest turns or summarize them (--overflow drop|summarize), or begin a new one"
            + _larger(backend),
        )
    sizes = await aside(partial(Sizes.of, talk, renderer.count))
    if request.overflow == "summarize":
        return await _summarized(request, talk, sizes, Writer(backend, renderer, lend), think, emit)
    cut = dropped(sizes, context)
    messages = talk.from_exchange(cut)
    return Fitted(messages, await renderer.prompt(messages, think), talk.left_out(cut))


async def _summarized(
    request: AnswerRequest,
    talk: Conversation,
    sizes: Sizes,
    writer: Writer,
    think: bool,
    emit: Callable[[Event], None],
) -> Fitted:
    """The conversation with a summary: the one that is known while it is enough, else a new one."""
    renderer = writer.renderer
    context, last = renderer.context, len(talk.exchanges) - 1
    known = request.summary
    cut = talk.covered(known.turns) if known is not None else 0
    text = known.text if known is not None and cut else ""

    async def rendered() -> tuple[tuple[Message, ...], Prompt]:
        messages = await aside(partial(told, talk.from_exchange(cut), text, renderer))
        return messages, await renderer.prompt(messages, think)

    messages, prompt = await rendered()
    if not cut or (cut < last and context - len(prompt.ids) < room(context)):
        begin = cut
        cut, _ = shortened(sizes, context, begin, last, beside=longest(context))
        oldest = len(talk.left_out(cut))
        emit(Notice(code="summarizing", text=f"the context is full: summarizing the {oldest} oldest turns"))
        text = await writer.write(talk, sizes, text, begin, cut)
        messages, prompt = await rendered()
    if text and context - len(prompt.ids) < LEAST_ROOM:
        writer.notices.append("the question leaves no room for the summary: it is left out too")
        text = ""
        messages, prompt = await rendered()
    names = talk.left_out(cut)
    summary = Summary(text=text, turns=names) if text else None
    return Fitted(messages, prompt, names, summary, tuple(writer.accounts), tuple(writer.notices))


def _needed(overflow: Overflow, context: int) -> int:
    """Tokens that the whole conversation has to leave, or else turns are left out of it.

    Whoever is still to be asked is asked late; whoever has agreed gets room for thoughts.
    """
    return min(RESERVE_TOKENS, room(context)) if overflow == "stop" else room(context)


def _size(renderer: Renderer, messages: Sequence[Message], taken: int) -> str:
    """Tokens that messages take, as far as they were counted."""
    if not renderer.is_hopeless(messages):
        return f"{taken:,} tokens"
    return f"far more than {renderer.context:,} tokens"


def _larger(backend: Backend) -> str:
    """The way out that remains where the model has not got all the context that it could have."""
    longest_context = backend.info.longest_context
    if longest_context <= backend.info.context:
        return ""
    return f", or load the model with a larger --context, up to {longest_context}"
