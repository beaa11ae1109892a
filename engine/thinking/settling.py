"""The settling point: where in a thought the answer stopped changing. Knows no torch.

The thought is probed at about MARKS places, from its end backwards, until an answer differs; what was thought
in between changed nothing. Mostly the prompt cache still has what the probes go on from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from engine.backend import Account, Backend, WindDown
from engine.meter.receipt import Clock, Outcome, Spent, build
from engine.protocol import Answer, Settling, SettlingMark
from engine.replay.paths import Damaged, paths_of
from engine.speed import Stop
from engine.thinking.formats import Resolved, resolve
from engine.thinking.hidden import charged
from engine.thinking.probing import Guess, Probing, plain
from engine.thinking.refusals import UsageError

MARKS = 8
NO_SHORT_FORM = "the answer has no short form that could be compared"
NO_MEMORY = "there was no memory or context for probes"


@dataclass(frozen=True)
class Thought:
    """A thought's ids, without its markers and what forced its end, and all that comes before them."""

    before: list[int]
    ids: list[int]


async def settle(answer: Answer, backend: Backend, clock: Clock, stop: Stop) -> Settling:
    """Where the thought of an answer settled. Raises UsageError, and `engine.speed.Stopped`."""
    style = resolve(backend.tokenizer, backend.info.thinking_format)
    if style is None:
        raise UsageError(f"{backend.info.name} does not think")
    thought = thought_of(answer, backend, style)
    prober = _Prober(thought, Probing(backend, style), backend, stop)
    seen: list[SettlingMark] = []
    settled, reason = None, ""
    final = await prober(len(thought.ids))
    if final is None:
        reason = NO_MEMORY
    elif not final.answer or final.answer not in plain(answer.answer):
        reason = NO_SHORT_FORM
    else:
        settled = len(thought.ids)
        for mark in reversed(marks(thought.ids, backend.tokenizer.sentence_ends())):
            guess = await prober(mark)
            if guess is None:
                break
            seen.append(SettlingMark(tokens=mark, answer=guess.answer))
            if guess.answer != final.answer:
                break
            settled = mark
    outcome = Outcome(
        spent=(Spent("", prober.account, None, True),),
        prompt_tokens=len(thought.before) + len(thought.ids),
        sampler=backend.defaults,
        memory=backend.memory(),
        notices=(),
    )
    return Settling(
        thought=len(thought.ids),
        settled=settled,
        reason=reason,
        marks=tuple(reversed(seen)),
        budget=None if settled is None else budget(settled, style),
        receipt=build(backend, clock, outcome),
    )


def thought_of(answer: Answer, backend: Backend, style: Resolved) -> Thought:
    """The last thought of the kept candidate, from the answer's trace. Raises UsageError."""
    if style.end is None:
        raise UsageError("a thought in words has no end that could be looked for")
    if answer.trace is None:
        raise UsageError("this answer was not recorded with its tokens", "ask again")
    if answer.trace.weights != backend.info.weights_digest:
        raise UsageError("this answer is of another model", "load the one that gave it")
    try:
        paths = paths_of(answer.trace, backend.shape.vocab)
    except Damaged as error:
        raise UsageError(f"the answer cannot be probed: {error}") from error
    kept = next((one.id for one in answer.candidates if one.kept), None)
    for path in reversed(paths):
        if path.candidate == kept and style.end in path.ids[path.prompt :]:
            end = len(path.ids) - 1 - path.ids[::-1].index(style.end)
            opened = [at for at, token in enumerate(path.ids[:end]) if token == style.start]
            begin = opened[-1] + 1 if opened else path.prompt
            phrase = list(style.forced_end[: style.forced_end.index(style.end)])
            if phrase and path.ids[end - len(phrase) : end] == phrase:
                end -= len(phrase)
            if end > begin:
                return Thought(path.ids[:begin], path.ids[begin:end])
    raise UsageError("this answer has no thought that was ended", "ask with thinking on")


def marks(ids: Sequence[int], ends: AbstractSet[int]) -> list[int]:
    """How many ids come before each mark, ascending: where lines or sentences end that are nearest to even
    parts of the thought; the first is its very beginning.
    """
    possible = [0, *(at for at, token in enumerate(ids, 1) if token in ends and at < len(ids))]
    even = (len(ids) * part / MARKS for part in range(MARKS))
    return sorted({min(possible, key=lambda at: abs(at - wanted)) for wanted in even})


def budget(settled: int, style: Resolved) -> int:
    """What `--think` has to allow for a thought to come so far before it is wound down; 0: none is needed."""
    if settled == 0:
        return 0
    return math.ceil(settled / WindDown.grace) + 1 + len(style.forced_end)


class _Prober:
    """Probes beginnings of a thought, and keeps account of all of them."""

    def __init__(self, thought: Thought, probing: Probing, backend: Backend, stop: Stop) -> None:
        self._thought = thought
        self._probing = probing
        self._backend = backend
        self._stop = stop
        self.account = Account()

    async def __call__(self, tokens: int) -> Guess | None:
        """What the first so many tokens lead to; None without memory or context. Raises Stopped."""
        self._stop.check()
        ids = [*self._thought.before, *self._thought.ids[:tokens]]
        try:
            node = await self._backend.prefill(ids, self._stop.lend(0))
        except MemoryError:
            return None
        try:
            self._stop.check()
            return await self._probing(node)
        finally:
            await self._backend.cancel(node, store=False)
            cached = self.account.cached + node.account.cached
            self.account = replace(charged(node.account, [self.account]), cached=cached)
