"""refine:K of code that tests are given for: write, run the tests, be told what fails, write again; K times.

Each round is a turn of its own after all that came before. The version that passes most tests is kept, the
later of equals. Source: Chen et al., "Teaching large language models to self-debug", 2023 (arXiv:2304.05128).
"""

from __future__ import annotations

from dataclasses import replace

from engine.backend import Lease
from engine.protocol import Decision, Message, Vote
from engine.thinking.budget import plan
from engine.thinking.context import Cancelled, Context
from engine.thinking.prompt import Renderer
from engine.thinking.verifiers.judgement import CannotJudge
from engine.thinking.verifiers.tests import Tested, run_tests

FAILED = """These tests fail:

{report}

Correct the code, and give all of it again in one block."""


async def run(ctx: Context) -> None:
    """Answer, and go on while tests fail."""
    assert ctx.verifier is not None
    await ctx.prefill()
    [one] = await ctx.branch(1)
    await one.reply()
    results: list[tuple[Context, Tested]] = []
    messages, note = ctx.messages, ""
    while True:
        try:
            results.append((one, await run_tests(one.answer, ctx.verifier.tests)))
        except CannotJudge as error:
            ctx.keep(one, Decision(rule=f"not tested: {error}", votes=(), margin=0.0))
            return
        tested = results[-1][1]
        one.score = tested.share
        if tested.good or len(results) > ctx.number or ctx.hurried:
            break
        told = Message("user", FAILED.format(report=tested.report))
        messages = (*messages, Message("assistant", one.answer.strip()), told)
        following = await _turn(ctx, messages)
        if following is None:
            note = "; no room for another round"
            break
        one = following
        await one.reply()
    _choose(ctx, results, note)


def _choose(ctx: Context, results: list[tuple[Context, Tested]], note: str) -> None:
    ranked = sorted(results, key=lambda result: (result[1].share, int(result[0].candidate)), reverse=True)
    kept, tested = ranked[0]
    votes = tuple(
        Vote(answer=f"{found.passed} of {found.total} tests", candidates=(one.candidate,), weight=found.share)
        for one, found in ranked
    )
    rounds = len(results) - 1
    rule = f"tests: {tested.passed} of {tested.total} pass after {rounds} of {ctx.number} rounds{note}"
    second = ranked[1][1].share if rounds else 0.0
    ctx.keep(kept, Decision(rule=rule, votes=votes, margin=tested.share - second))


async def _turn(ctx: Context, messages: tuple[Message, ...]) -> Context | None:
    """A candidate that answers these; None where neither the context nor the budget has room for one."""
    backend = ctx.backend
    renderer = Renderer(backend.tokenizer, ctx.format, backend.info.context)
    prompt = await renderer.prompt(messages, think=ctx.budget.thinks)
    room = backend.info.context - len(prompt.ids)
    if room < 2 * ctx.reserve or not ctx.purse.affords(1, len(prompt.ids) + ctx.reserve, 0):
        return None
    try:
        node = await backend.prefill(prompt.ids, ctx.answer_lease)
    except MemoryError:
        return None
    tally = ctx.tally.branch(node.account)
    tally.prefilled = len(prompt.ids)
    opening = 0 if ctx.format is None else ctx.format.to_open(prompt.opened)
    phrase = ctx.budget.phrase
    one = replace(
        ctx,
        prompt=prompt.ids,
        opened=prompt.opened,
        budget=plan(ctx.budget.limit, room, opening, phrase) if ctx.budget.thinks else ctx.budget.another(),
        answer_lease=Lease(min(ctx.answer_most, room), cancelled=ctx.answer_lease.cancelled),
        share=ctx.purse.open(node),
        tally=tally,
        candidate=str(len(ctx.branches)),
        node=node,
        watched=[],
        branches=[],
    )
    ctx.branches.append(one)
    if ctx.answer_lease.cancelled:
        raise Cancelled
    return one
