"""Thoughts that branch: steps are sampled from where another step ended, and alike ones count as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.protocol import TreeNode
from engine.thinking.context import Context, together
from engine.thinking.step_scorer import score

Family = list[Context]
"""Steps that go on from the same."""


async def grow(root: Context, wanted: Sequence[tuple[Context | None, int]]) -> list[Family]:
    """So many nodes to go on from each of some steps, or from the prompt (None).

    Each inherits what is said and spent on its way, and the purse is shared by all of them alike.
    """
    families: list[Family] = []
    for parent, count in wanted:
        origin = parent or root
        assert origin.node is not None
        await root.backend.force(origin.node, "thinking", ())  # what is pending: once, and not by each
        family = []
        for node in await root.backend.fork(origin.node, count):
            tally = root.tally.branch(node.account)
            if parent is not None:
                tally.prefilled = parent.tally.context_used
            step = replace(
                origin,
                budget=replace(origin.budget, lease=replace(origin.budget.lease)),
                answer_lease=replace(origin.answer_lease, limit=origin.answer_most, used=0),
                tally=tally,
                candidate=str(len(root.branches)),
                node=node,
                watched=list(origin.watched),
                branches=[],
                parent=parent,
                unfinished=True,
                share=None,
                score=None,
            )
            root.branches.append(step)
            family.append(step)
        families.append(family)
    allot(root, [step for family in families for step in family])
    return families


def allot(root: Context, steps: Sequence[Context]) -> None:
    """Share among some steps, while they are at work, what is left of the purse."""
    if root.share is not None:
        root.purse.close(root.share)
    if steps:
        nodes = [step.node for step in steps if step.node is not None]
        for step, share in zip(steps, root.purse.split(None, nodes), strict=True):
            step.share = share


async def drop(root: Context, step: Context) -> None:
    """Nothing goes on from here."""
    assert step.node is not None
    await root.backend.cancel(step.node)


async def advance(root: Context, families: Sequence[Family], ends: frozenset[int]) -> list[Family]:
    """Take the steps, side by side; those that differ from their siblings are scored, told and returned.

    Raises what one of them raised.
    """
    await together(_think(step, ends) for family in families for step in family)
    _rest(root, [step for family in families for step in family])
    return [await _distinct(root, family) for family in families]


async def answer(root: Context, steps: Sequence[Context]) -> None:
    """Answer side by side, after thoughts that are still open have come to their end."""
    allot(root, steps)
    await together(_answer(step) for step in steps)
    _rest(root, steps)
    for step in steps:
        tell(root, step, times(root, step))


def tell(root: Context, step: Context, visits: int) -> None:
    """How a step stands."""
    before = len(step.parent.thinking) if step.parent is not None else 0
    root.tell(
        TreeNode(
            id=step.candidate,
            parent=step.parent.candidate if step.parent is not None else "",
            text=step.thinking[before:],
            tokens=step.tally.thinking_tokens,
            score=step.score,
            visits=visits,
        )
    )


def times(root: Context, step: Context) -> int:
    """How many samples were this step."""
    told = root.told.get(step.candidate)
    return told.visits if told is not None else 1


def _rest(root: Context, steps: Sequence[Context]) -> None:
    """What they have not spent is anybody's again."""
    for step in steps:
        if step.share is not None:
            root.purse.close(step.share)


async def _distinct(root: Context, family: Family) -> Family:
    first: dict[tuple[int, ...], Context] = {}
    counts: dict[str, int] = {}
    for step in family:
        assert step.node is not None
        like = first.setdefault(tuple(step.node.ids), step)
        counts[like.candidate] = counts.get(like.candidate, 0) + 1
        if like is not step:
            await drop(root, step)
    for step in first.values():
        tell(root, step, counts[step.candidate])
    return list(first.values())


async def _think(step: Context, ends: frozenset[int] = frozenset()) -> None:
    assert step.node is not None
    await step.think(step.node, pause=ends)
    step.score = score(step.thinking, step.watched)


async def _answer(step: Context) -> None:
    assert step.node is not None
    if step.opened:
        await _think(step)
    step.unfinished = False
    await step.say(step.node)
    step.done = True
