"""What a method works with: the backend, the budget, and the two passages every answer is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.backend import Backend, Lease, Node, Sampler, Watch, WindDown
from engine.meter.tally import Tally
from engine.protocol import Decision, Delta, Event, Grew, Phase, TreeNode
from engine.thinking.budget import ThinkingBudget
from engine.thinking.formats import Resolved
from engine.thinking.stream import TextStream

BLANK_TRIES = 8
"""Tokens for which the end is banned while the answer is still blank: an answer is never empty."""


Doubt = Callable[[str], str | None]
"""Reads a thought so far; what it returns is put after it."""


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
    emit: Callable[[Event], None]
    candidate: str = "0"
    thinking: str = ""
    answer: str = ""
    cut: bool = False
    """The budget, not the model, ended a thought."""
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
    score: float | None = None
    done: bool = False
    """It has answered, as far as its budget let it."""
    _blank: int = field(default=0, init=False)
    _streams: dict[Phase, TextStream] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._streams = {
            "thinking": TextStream(self.backend.tokenizer),
            "answer": TextStream(self.backend.tokenizer),
        }

    async def prefill(self) -> Node:
        """The prompt in the cache. Raises Cancelled."""
        self.node = await self.backend.prefill(self.prompt, self.answer_lease, self.tally.prefill_progressed)
        self.tally.account = self.node.account
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
        """Somebody wants the answer now."""
        return self.budget.lease.ended

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
        for node in await self.backend.fork(self.node, count):
            candidate = replace(
                self,
                budget=self.budget.another(),
                answer_lease=replace(self.answer_lease, used=0),
                tally=self.tally.branch(node.account),
                candidate=str(len(self.branches)),
                node=node,
                watched=[],
                branches=[],
            )
            self.branches.append(candidate)
            begun.append(candidate)
        return begun

    async def reply(self, doubt: Doubt | None = None) -> None:
        """Think, where there is a budget for it, and answer, from the node that there is."""
        assert self.node is not None
        if self.budget.thinks:
            await self.think(self.node, doubt)
        await self.say(self.node)
        self.done = True

    async def think(
        self, node: Node, doubt: Doubt | None = None, pause: frozenset[int] = frozenset()
    ) -> bool:
        """Think until the model ends its thought or the budget does; then the thought is closed.

        A model whose template does not open the thought is made to open it: a budget was asked for. `doubt`
        reads the thought at the end of each of its lines or sentences, and may have words put after it.
        Returns whether the thought is still open: it paused after one of the ids at which it was to.
        """
        style = self._style()
        if not self.opened:
            await self._force(node, "thinking", (style.start,), shown=False)
        self.opened = False
        ends, lease = self.backend.tokenizer.sentence_ends(), self.budget.lease
        halts = pause or (ends if doubt else frozenset())
        wind_down = WindDown(style.end, ends)
        while True:
            extension = await self.backend.extend(
                node,
                "thinking",
                lease,
                self.sampler,
                stop=self.backend.tokenizer.eos_ids,
                keep=frozenset({style.end}) | halts,
                banned=frozenset({style.start}),
                wind_down=wind_down,
                watch=self.watch,
                live=self.live,
                on_tokens=self._hear_thought,
            )
            self.watched += extension.watched
            self._check(lease)
            if extension.stop_id is None or extension.stop_id not in halts:
                break
            self._hear("thinking", (extension.stop_id,))
            if lease.used >= wind_down.grace * lease.limit:
                self.cut = True
                break
            if pause:
                self.opened = True
                return True
            words = self.backend.tokenizer.encode((doubt and doubt(self.thinking)) or "")
            if words and lease.limit - lease.used > len(words):
                await self._force(node, "thinking", tuple(words), shown=True)
        self._flush("thinking")
        if extension.stop_id != style.end:
            self.cut = self.cut or extension.reason in ("limit", "ended")
            await self._force(node, "thinking", style.forced_end, shown=True)
        else:
            self.tally.sampled("thinking", 1)
        return False

    async def say(self, node: Node) -> None:
        """The visible answer to its end; a thought that it opens is held to what the budget still has."""
        eos = self.backend.tokenizer.eos_ids
        opening, closing = frozenset[int](), frozenset[int]()
        if self.format is not None:
            opening, closing = frozenset({self.format.start}), frozenset({self.format.end})
        blank_ends = 0
        end_banned = False
        while True:
            reopen = self.budget.may_reopen(self.backend.info.context - len(node.ids))
            extension = await self.backend.extend(
                node,
                "answer",
                Lease(1) if end_banned else self.answer_lease,
                self.sampler,
                stop=eos,
                keep=opening if reopen else frozenset(),
                banned=closing | (frozenset() if reopen else opening) | (eos if end_banned else frozenset()),
                watch=self.watch,
                live=self.live,
                on_tokens=self._hear_answer,
            )
            self.watched += extension.watched
            self._check(self.answer_lease)
            if extension.stop_id in opening:
                self.tally.sampled("answer", 1)
                self.opened = True
                left = self.backend.info.context - len(node.ids)
                if left < len(self._style().forced_end):
                    break  # nothing could be said after it
                self.budget.may_reopen(left)  # the answer has gone on since it was asked
                await self.think(node)
            elif extension.stop_id in eos and not self.answer and blank_ends < BLANK_TRIES:
                blank_ends += 1
                end_banned = True
            elif end_banned:
                end_banned = False
            elif extension.reason != "limit" or self.answer_lease.used >= self.answer_lease.limit:
                break  # else its beginning was blank, and the cap is on what can be read
        self._flush("answer")
        cut_off = extension.stop_id in opening or extension.reason in ("limit", "context", "memory")
        self.ended_by = "length" if cut_off else "stop"

    def _style(self) -> Resolved:
        if self.format is None:
            raise ValueError("a model without a thinking format cannot think")
        return self.format

    def _check(self, lease: Lease) -> None:
        if lease.cancelled:
            raise Cancelled

    async def _force(self, node: Node, phase: Phase, ids: tuple[int, ...], shown: bool) -> None:
        await self.backend.force(node, phase, ids)
        self.budget.charge(len(ids))
        self.tally.forced(phase, len(ids))
        style = self._style()
        text = self.backend.tokenizer.decode([i for i in ids if i not in (style.start, style.end)])
        text = (text if style.end not in ids else text.rstrip()) if shown else ""
        if phase == "thinking" and text:
            self.thinking += text
            self.emit(Delta(candidate=self.candidate, phase=phase, text=text, tokens=len(ids), forced=True))

    def _hear_thought(self, ids: tuple[int, ...]) -> None:
        self._hear("thinking", ids)

    def _hear_answer(self, ids: tuple[int, ...]) -> None:
        self._hear("answer", ids)
        if not self.answer and self._blank < BLANK_TRIES:
            self._blank += len(ids)
            self.answer_lease.limit += len(ids)

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
