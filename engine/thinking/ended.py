"""What an answer was when it has ended: its candidates, its tree, what each of them spent."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from engine.backend import Backend
from engine.meter.receipt import Spent
from engine.protocol import AnswerRequest, Candidate, TreeNode
from engine.protocol.trace import Trace
from engine.thinking.confidence import confidence
from engine.thinking.context import Context
from engine.thinking.fitting import Fitted
from engine.thinking.hidden import charged
from engine.thinking.trace import trace


def tree(context: Context) -> tuple[TreeNode, ...]:
    shown = {one.candidate for one in context.kept.path}
    return tuple(structs.replace(node, kept=node.kept or node.id in shown) for node in context.told.values())


def candidate_of(one: Context, kept: bool) -> Candidate:
    return Candidate(
        id=one.candidate,
        answer=one.answer.strip(),
        tokens=one.tally.answer_tokens,
        thinking_tokens=sum(step.tally.thinking_tokens for step in one.path),
        kept=kept,
        score=one.score,
        confidence=confidence(one.watched),
    )


def spent(context: Context, fitted: Fitted) -> tuple[Spent, ...]:
    """What the prompt came to, hidden work before it included, and what each candidate did."""
    assert context.node is not None
    first = Spent(
        candidate="" if context.branches else context.candidate,
        account=charged(context.node.account, fitted.hidden),
        pending=context.node.pending,
        kept=True,
    )
    shown = {one.candidate for one in context.kept.path}
    others = [
        Spent(one.candidate, one.node.account, one.node.pending, one.candidate in shown)
        for one in context.branches
        if one.node is not None
    ]
    return first, *_judged(context), *others


def _judged(context: Context) -> list[Spent]:
    """What it took to choose: all of it scoring, whatever it was put through the model for."""
    return [
        Spent(
            "judge",
            replace(account, forwarded=[replace(one, kind="score") for one in account.forwarded]),
            None,
            True,
        )
        for account in context.judging
    ]


def trace_of(request: AnswerRequest, backend: Backend, context: Context) -> Trace | None:
    """How each token of each candidate came about."""
    own = "" if context.branches else context.candidate
    nodes = [(own, context.node), *((one.candidate, one.node) for one in context.branches)]
    return trace(request, backend, ((name, node) for name, node in nodes if node is not None))
