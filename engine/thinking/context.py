"""What a method works with: the backend, the budget, and the two passages every answer is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from engine.backend import Account, Backend, Extension, Lease, Node, Sampler, Watch, WindDown
from engine.meter.tally import Tally
from engine.protocol import AnswerType, Decision, Delta, Event, Grew, Message, Phase, TreeNode, Verifier
from engine.thinking.budget import RESERVE_TOKENS, ThinkingBudget
from engine.thinking.formats import Resolved
from engine.thinking.purse import Purse, Share
from engine.thinking.stream import TextStream

BLANK_TRIES = 8
"""Tokens for which the end is banned while the answer is still blank: an answer is never empty."""


Doubt = Callable[[str], str | None]
"""Reads a thought so far; what it returns is put after it."""


class Ending(Protocol):
    """Says where a thought ends: asked where a line or sentence of it does. What it may take, it charges."""

    turns: frozenset[int]
    """Ids that begin a turn of the thought: where a line or sentence begins it is asked before them."""

    async def __call__(self, node: Node, turn: bool) -> bool:
        """Whether the thought ends here; before a turn or not."""
        ...


async def together(work: Iterable[Awaitable[None]]) -> None:
    """Do what candidates do side by side. Raises what one of them raised, when all have ended."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


class Cancelled(Exception):
    """The answer was cancelled; what it has said so far is kept."""


@dataclass
class Context:
    """One answer in the making. Methods await its passages; a control moves its leases meanwhile."""

    backend: Backend
    format: Resolved | None
    budget: ThinkingBudget
    sampler: Sampler
    prompt: list[int]
    opened: bool
    """The node's end already stands inside a thought."""
    answer_lease: Lease
    tally: Tally
    purse: Purse
    emit: Callable[[Event], None]
    candidate: str = "0"
    thinking: str = ""
    answer: str = ""
    cut: bool = False
    """The budget, not the model, ended a thought or the answer."""
    ended_by: Literal["stop", "length"] = "stop"
    node: Node | None = None
    watch: bool = False
    live: bool = True
    """Somebody sees the tokens as they come."""
    watched: list[Watch] = field(default_factory=list)
    number: int = 1
    """The method's: how many candidates it may have, or rounds."""
    branches: list[Context] = field(default_factory=list)
    """Candidates that go on from the prompt, in the order in which they began."""
    chosen: Context | None = None
    decision: Decision | None = None
    parent: Context | None = None
    """The step of a thought that this one goes on from; None where that is the prompt."""
    unfinished: bool = False
    """A step of a thought, and no answer yet."""
    told: dict[str, TreeNode] = field(default_factory=dict)
    """What was told last of each step of a search, by its name."""
    python: bool = False
    """The model may have its programs run, shut in."""
    messages: tuple[Message, ...] = ()
    """What the prompt says, the question last."""
    answer_type: AnswerType | None = None
    verifier: Verifier | None = None
    judging: list[Account] = field(default_factory=list)
    """Work that was done to choose among candidates."""
    score: float | None = None
    done: bool = False
    """It has answered, as far as its budget let it."""
    share: Share | None = None
    """Its part of the purse, as soon as it has a node."""
    answer_most: int = field(default=0, init=False)
    """Tokens that the answer may have, whatever the purse leaves."""
    _blank: int = field(default=0, init=False)
    _streams: dict[Phase, TextStream] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.answer_most = self.answer_lease.limit
        self._streams = {
            "thinking": TextStream(self.backend.tokenizer),
            "answer": TextStream(self.backend.tokenizer),
        }

    async def prefill(self) -> Node:
        """The prompt in the cache. Raises Cancelled."""
        self.node = await self.backend.prefill(self.prompt, self.answer_lease, self.tally.prefill_progressed)
        self.tally.account = self.node.account
        self.share = self.purse.open(self.node)
        self._check(self.answer_lease)
        return self.node

    @property
    def kept(self) -> Context:
        """The candidate whose answer is the answer; where none was chosen, the one that has got furthest."""
        if self.chosen is not None or not self.branches:
            return self.chosen or self
        return max(self.branches, key=lambda one: (one.done, len(one.answer), len(one.thinking)))

    @property
    def path(self) -> list[Context]:
        """The steps that its text is made of, from the prompt on, itself the last."""
        return [*(self.parent.path if self.parent is not None else ()), self]

    @property
    def hurried(self) -> bool:
        """Somebody wants the answer now, or there is nothing left to spend on another."""
        return self.budget.lease.ended or self.purse.steps_left() <= 0

    def affords(self, count: int) -> int:
        """How many more candidates, at most `count`, the purse pays for if they are like those before."""
        ended = [len(one.node.ids) for one in self.branches if one.done and one.node is not None]
        length = sum(ended) // len(ended) if ended else len(self.prompt) + self._usual()
        return self.purse.affords(count, length - len(self.prompt), len(self.prompt))

    def refit(self) -> None:
        """Hold thoughts and answer to what the purse leaves by now; an answer has at least one token."""
        left = self.share.left() if self.share is not None else None
        kept = self.budget.hold(left, self.reserve)
        most = self.answer_most
        if left is not None:
            most = min(most, self.answer_lease.used + max(left, 0 if self.answer else 1))
        self.answer_lease.limit = most
        self.budget.lease.until_ns = self.purse.until(steps=kept + 2)  # two for what ends the thought
        self.answer_lease.until_ns = self.purse.until(steps=1)

    def tell(self, node: TreeNode) -> None:
        """A step of a search, as it stands now."""
        self.told[node.id] = node
        self.emit(Grew(node))

    def keep(self, candidate: Context, decision: Decision) -> None:
        """Choose a candidate, and say why."""
        self.chosen, self.decision = candidate, decision

    async def branch(self, count: int) -> list[Context]:
        """Candidates that go on from the prompt, each with as much to spend; to be called after `prefill`."""
        assert self.node is not None
        begun = []
        nodes = await self.backend.fork(self.node, count)
        for node, share in zip(nodes, self.purse.split(self.share, nodes), strict=True):
            candidate = replace(
                self,
                budget=self.budget.another(),
                share=share,
                answer_lease=replace(self.answer_lease, limit=self.answer_most, used=0),
                tally=self.tally.branch(node.account),
                candidate=str(len(self.branches)),
                node=node,
                watched=[],
                branches=[],
            )
            self.branches.append(candidate)
            begun.append(candidate)
        return begun

    async def reply(self, doubt: Doubt | None = None, ending: Ending | None = None) -> None:
        """Think, where there is a budget for it, and answer, from the node that there is."""
        assert self.node is not None
        if self.budget.thinks:
            await self.think(self.node, doubt, ending=ending)
        await self.say(self.node)
        self.finish()

    def finish(self) -> None:
        """It has answered: what it has not spent is anybody's."""
        self.done = True
        if self.share is not None:
            self.purse.close(self.share)

    async def skip_thought(self) -> None:
        """Answer from here on without a thought, although the prompt was made for one."""
        if self.format is None or not self.budget.thinks:
            return
        assert self.node is not None
        opening = () if self.opened else self.format.opening
        self.opened = False
        if self.format.end is not None:
            await self._force(self.node, "thinking", (*opening, *self.format.forced_end), shown=False)

    async def think(
        self,
        node: Node,
        doubt: Doubt | None = None,
        pause: frozenset[int] = frozenset(),
        ending: Ending | None = None,
    ) -> bool:
        """Think until the model ends its thought or the budget does; then the thought is closed.

        A model whose template does not open the thought is made to open it: a budget was asked for. `doubt`
        reads the thought at the end of each of its lines or sentences, and may have words put after it;
        `ending` may end it there.
        Returns whether the thought is still open: it paused after one of the ids at which it was to.
        """
        style = self._style()
        if not self.opened:
            await self._force(node, "thinking", style.opening, shown=style.end is None)
        self.opened = False
        ends, lease = self.backend.tokenizer.sentence_ends(), self.budget.lease
        halts = pause or (ends if doubt or ending else frozenset())
        turns = frozenset[int]() if ending is None else ending.turns
        eos, closing = self.backend.tokenizer.eos_ids, style.ends
        wind_down = WindDown(min(closing or eos), ends) if closing or eos else None
        while True:
            hasty = closing if self.budget.too_short else frozenset[int]()
            extension = await self._extend(
                node,
                "thinking",
                lease,
                stop=eos | hasty | turns,
                keep=(closing - hasty) | halts,
                banned=style.starts,
                wind_down=wind_down,
            )
            if extension.stop_id is None:
                break
            if ending is not None and extension.stop_id in turns:
                if node.ids[-1] in ends and not self.budget.too_short and await ending(node, turn=True):
                    break
                await self._restore(node, extension.stop_id)
                continue
            if extension.stop_id not in halts:
                self.budget.dropped += len(hasty)
                if self.budget.too_short and await self.add(node, style.format.wait):
                    continue
                break
            self._hear("thinking", (extension.stop_id,))
            if wind_down is not None and lease.used >= wind_down.grace * lease.limit:
                self.cut = True
                break
            if pause and self.thinking:
                self.opened = True
                return True
            if ending is not None and not self.budget.too_short and await ending(node, turn=False):
                break
            if doubt is not None:
                await self.add(node, doubt(self.thinking) or "")
        self._flush("thinking")
        if extension.stop_id in hasty:  # it was dropped, in case that it came too early
            await self._force(node, "thinking", (*closing, *style.answer_opening), shown=False)
        elif extension.stop_id in closing:
            self.tally.sampled("thinking", 1)
            await self._force(node, "thinking", style.answer_opening, shown=False)
        else:
            self.cut = self.cut or extension.reason in ("limit", "ended")
            await self._force(node, "thinking", style.forced_end, shown=True)
        return False

    async def _restore(self, node: Node, token: int) -> None:
        """Put a sampled id that ended an extension, and was dropped, back where it was."""
        await self.backend.force(node, "thinking", (token,))
        self.tally.forced("thinking", 1)
        self._show("thinking", self._streams["thinking"].feed((token,)), 1)

    async def add(self, node: Node, words: str) -> bool:
        """Put words after an open thought, where the budget holds them."""
        ids = self.backend.tokenizer.encode(words)
        if not ids or self.budget.lease.limit - self.budget.lease.used <= len(ids):
            return False
        await self._force(node, "thinking", tuple(ids), shown=True)
        return True

    async def say(self, node: Node) -> None:
        """The visible answer to its end; a thought that it opens is held to what the budget still has."""
        eos = self.backend.tokenizer.eos_ids
        opening, closing = frozenset[int](), frozenset[int]()
        if self.format is not None:
            opening, closing = self.format.starts, self.format.ends
        blank_ends = 0
        end_banned = False
        while True:
            reopen = (self.format is None or self.format.format.reopens) and self.budget.may_reopen(
                self.backend.info.context - len(node.ids)
            )
            extension = await self._extend(
                node,
                "answer",
                Lease(1) if end_banned else self.answer_lease,
                stop=eos,
                keep=opening if reopen else frozenset(),
                banned=closing | (frozenset() if reopen else opening) | (eos if end_banned else frozenset()),
            )
            if extension.stop_id in opening:
                self.tally.sampled("answer", 1)
                self.opened = True
                left = self.backend.info.context - len(node.ids)
                if left < len(self._style().forced_end):
                    break  # nothing could be said after it
                self.budget.may_reopen(left)  # the answer has gone on since it was asked
                await self.think(node)
            elif extension.stop_id in eos and not self.answer and blank_ends < self._blank_tries():
                blank_ends += 1
                end_banned = True
            elif end_banned:
                end_banned = False
            elif extension.reason != "limit" or self.answer_lease.used >= self.answer_lease.limit:
                break  # else its beginning was blank, and the cap is on what can be read
        self._flush("answer")
        spent = extension.reason == "limit" and self.answer_lease.used < self.answer_most
        self.cut = self.cut or spent
        cut_off = extension.stop_id in opening or extension.reason in ("limit", "context", "memory")
        self.ended_by = "length" if cut_off and not spent else "stop"

    async def _extend(
        self,
        node: Node,
        phase: Phase,
        lease: Lease,
        *,
        stop: frozenset[int],
        keep: frozenset[int],
        banned: frozenset[int],
        wind_down: WindDown | None = None,
    ) -> Extension:
        """Sample within what the purse leaves. Raises Cancelled."""
        self.refit()
        extension = await self.backend.extend(
            node,
            phase,
            lease,
            self.sampler,
            stop=stop,
            keep=keep,
            banned=banned,
            wind_down=wind_down,
            watch=self.watch,
            guess=not self.purse.counted,
            live=self.live,
            on_tokens=self._hear_thought if phase == "thinking" else self._hear_answer,
        )
        self.watched += extension.watched
        self._check(self.budget.lease if phase == "thinking" else self.answer_lease)
        return extension

    def _blank_tries(self) -> int:
        """Ends that an answer which is still blank is denied, as far as the purse goes."""
        left = self.share.left() if self.share is not None else None
        return BLANK_TRIES if left is None else min(BLANK_TRIES, left)

    @property
    def reserve(self) -> int:
        """Tokens that nearly all answers fit into."""
        return self.backend.info.answer_reserve or RESERVE_TOKENS

    def _usual(self) -> int:
        """Tokens that a candidate takes, before any has ended."""
        steps = self.backend.info.think_steps
        thought = min(self.budget.limit, steps[-1]) if steps else self.budget.limit
        return thought + self.reserve

    def _style(self) -> Resolved:
        if self.format is None:
            raise ValueError("a model without a thinking format cannot think")
        return self.format

    def _check(self, lease: Lease) -> None:
        if lease.cancelled:
            raise Cancelled

    async def _force(self, node: Node, phase: Phase, ids: tuple[int, ...], shown: bool) -> None:
        if not ids:
            return
        await self.backend.force(node, phase, ids)
        self.budget.charge(len(ids))
        self.tally.forced(phase, len(ids))
        style = self._style()
        text = ""
        if shown and style.end in ids:  # what leads to the answer is nobody's text
            text = self.backend.tokenizer.decode(ids[: ids.index(style.end)]).rstrip()
        elif shown:
            text = self.backend.tokenizer.decode(ids)
        if phase == "thinking" and text:
            self.thinking += text
            self.emit(Delta(candidate=self.candidate, phase=phase, text=text, tokens=len(ids), forced=True))

    def _hear_thought(self, ids: tuple[int, ...]) -> None:
        self._hear("thinking", ids)

    def _hear_answer(self, ids: tuple[int, ...]) -> None:
        self._hear("answer", ids)
        if not self.answer and self._blank < BLANK_TRIES:
            self._blank += len(ids)
            self.answer_most += len(ids)
            self.refit()

    def _hear(self, phase: Phase, ids: tuple[int, ...]) -> None:
        self.tally.sampled(phase, len(ids))
        self._show(phase, self._streams[phase].feed(ids), len(ids))

    def _flush(self, phase: Phase) -> None:
        self._show(phase, self._streams[phase].flush(), 0)

    def _show(self, phase: Phase, text: str, tokens: int) -> None:
        """Add text to the transcript; the white space with which a passage begins is the template's."""
        if phase == "thinking":
            text = text if self.thinking else text.lstrip()
            self.thinking += text
        else:
            text = text if self.answer else text.lstrip()
            self.answer += text
        if text or tokens:
            self.emit(Delta(candidate=self.candidate, phase=phase, text=text, tokens=tokens))
