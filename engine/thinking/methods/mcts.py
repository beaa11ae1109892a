"""mcts:N: N roll-outs over a tree of steps, most of them where thoughts have fared best; their answers vote.

A roll-out thinks on from a step to its end and answers. Its value is its score, times the share of all
roll-outs that give the same answer. A step that was rolled out from once is expanded the next time. Several
roll-outs run side by side: each counts as a failure until it has ended (virtual loss), so that they part.
Sources: UCT, Kocsis & Szepesvari 2006; virtual loss, Chaslot et al. 2008.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from engine.thinking.context import Context
from engine.thinking.methods import samples
from engine.thinking.methods.samples import by_id
from engine.thinking.tree import advance, answer, grow, tell
from engine.thinking.voting import count, decision

WIDTH = 4
"""Steps that are tried where a step is expanded."""
WAVE = 4
"""Roll-outs side by side."""
EXPLORATION = math.sqrt(2)


@dataclass(eq=False)
class Place:
    """A step in the tree, or the prompt (None), with the roll-outs that went through it."""

    step: Context | None
    parent: Place | None = None
    children: list[Place] = field(default_factory=list)
    rolled: list[Context] = field(default_factory=list)
    under_way: int = 0

    @property
    def tries(self) -> int:
        return len(self.rolled) + self.under_way

    @property
    def line(self) -> list[Place]:
        """From the prompt to here."""
        return [*(self.parent.line if self.parent is not None else ()), self]


async def run(ctx: Context) -> None:
    """Roll out N times in waves, and keep the best of those with the weightiest answer."""
    await ctx.prefill()
    if ctx.format is None or not ctx.budget.thinks:
        await ctx.reply()
        return
    ctx.watch = True
    search = Search(ctx, ctx.format.step_ends(ctx.backend.tokenizer))
    while (left := ctx.number - len(search.root.rolled)) > 0:
        await search.wave(min(WAVE, left))
        search.choose()
        if ctx.hurried or not ctx.affords(1):
            break


class Search:
    """The tree of one answer."""

    def __init__(self, ctx: Context, ends: frozenset[int]) -> None:
        self._ctx = ctx
        self._ends = ends
        self.root = Place(None)

    async def wave(self, most: int) -> None:
        """Some roll-outs side by side, each from where it promises most while the others are under way."""
        count = 1 if self._ctx.hurried else max(1, self._ctx.affords(most))
        if not self.root.children and not self._ctx.hurried:
            await self._expand([self.root])
        leaves = [self._select() for _ in range(count)]
        await self._expand([leaf for leaf in dict.fromkeys(leaves) if _may_grow(leaf)])
        for at, leaf in enumerate(leaves):
            if leaf.children:
                leaves[at] = child = min(leaf.children, key=lambda one: (one.tries, -_score(one.step)))
                child.under_way += 1
        await self._roll_out(leaves)

    def choose(self) -> None:
        """The answer as it stands: each roll-out votes with its score, as often as it was come to."""
        times = Counter(one.candidate for one in self.root.rolled)
        rolled = [one for one in self._ctx.branches if one.candidate in times]
        votes = count([(one.candidate, one.answer, _score(one) * times[one.candidate]) for one in rolled])
        samples.tell(self._ctx, votes)
        if votes:
            best = max((by_id(self._ctx, name) for name in votes[0].candidates), key=_score)
            self._ctx.keep(best, decision(f"scores of {len(self.root.rolled)} roll-outs", votes))

    def _select(self) -> Place:
        """Down the tree to a step without children, by the upper confidence bound; it is now under way."""
        place = self.root
        place.under_way += 1
        values = self._values()
        while place.children:
            above = math.log(max(1, place.tries))

            def bound(child: Place, above: float = above) -> tuple[float, float]:
                if not child.tries:
                    return math.inf, _score(child.step)
                mean = sum(values[one.candidate] for one in child.rolled) / child.tries
                return mean + EXPLORATION * math.sqrt(above / child.tries), _score(child.step)

            place = max(place.children, key=bound)
            place.under_way += 1
        return place

    def _values(self) -> dict[str, float]:
        """Of each roll-out by its candidate; one that gives no answer has none."""
        rolled = {one.candidate: one for one in self.root.rolled}
        times = Counter(one.candidate for one in self.root.rolled)
        votes = count([(name, one.answer, times[name]) for name, one in rolled.items()])
        values = dict.fromkeys(rolled, 0.0)
        for vote in votes:
            for name in vote.candidates:
                values[name] = _score(rolled[name]) * vote.weight / len(self.root.rolled)
        return values

    async def _expand(self, places: list[Place]) -> None:
        families = await advance(
            self._ctx, await grow(self._ctx, [(place.step, WIDTH) for place in places]), self._ends
        )
        for place, family in zip(places, families, strict=True):
            place.children = [Place(step, place) for step in family]

    async def _roll_out(self, leaves: list[Place]) -> None:
        """A thought that has ended is answered once, and come to again at no cost."""
        open_ones = [leaf for leaf in leaves if leaf.step is None or leaf.step.opened]
        grown = iter(await grow(self._ctx, [(leaf.step, 1) for leaf in open_ones]))
        ways = [next(grown)[0] if leaf in open_ones else leaf.step for leaf in leaves]
        new = {one.candidate: one for one in ways if one is not None and not one.done}
        await answer(self._ctx, list(new.values()))
        for leaf, way in zip(leaves, ways, strict=True):
            assert way is not None
            for place in leaf.line:
                place.under_way -= 1
                place.rolled.append(way)
                if place.step is not None:
                    tell(self._ctx, place.step, len(place.rolled))


def _may_grow(place: Place) -> bool:
    """It was rolled out from before, and its thought goes on."""
    return place.step is not None and bool(place.rolled) and not place.children and place.step.opened


def _score(step: Context | None) -> float:
    return (step.score or 0.0) if step is not None else 0.0
