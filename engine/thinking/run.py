"""Answer one request: have it prepared, run its method, and make the receipt. Knows no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import structs

from engine.backend import Backend
from engine.meter.receipt import Clock, Outcome, build
from engine.protocol import Answer, AnswerRequest, Cancel, Event, Started
from engine.protocol.receipt import Finish
from engine.thinking.context import Cancelled
from engine.thinking.ended import candidate_of, spent, trace_of, tree
from engine.thinking.hidden import told
from engine.thinking.methods import METHODS
from engine.thinking.methods.agent import introduced
from engine.thinking.preparation import method_and_format, prepared, sampler_of
from engine.thinking.refusals import NoMemory, UsageError
from engine.thinking.steering import Steering, limit, metered, sample_meter, watch_clock

__all__ = ["Steering", "UsageError", "answer"]


async def answer(
    request: AnswerRequest,
    backend: Backend,
    emit: Callable[[Event], None],
    steering: Steering,
    clock: Clock,
) -> Answer:
    """The request's answer, with events on the way; a cancelled one is returned with what there is.

    Raises UsageError.
    """
    if request.bulk:
        emit = _nobody_hears
    method, style = method_and_format(request, backend)
    sampler = sampler_of(request.sampling, backend.defaults, method)
    if method.name == "agent" and request.messages:
        with_tools = introduced(request.messages, style, method.number or 1, request.allow_python)
        request = structs.replace(request, messages=with_tools)
    context, fitted, notices = await prepared(request, backend, method, style, sampler, emit, steering, clock)
    steering.context = context
    if steering.cancelled:
        steering.control(Cancel())
    started = Started(
        answer_id=request.id,
        model=backend.info.name,
        method=method.label,
        prompt_tokens=len(context.prompt),
        context=backend.info.context,
        thinking_limit=limit(context),
        thinking_room=context.budget.room if context.budget.thinks else 0,
        turns_left_out=fitted.turns_left_out,
        summary=fitted.summary,
        candidates=method.candidates,
    )
    emit(started)
    for notice in notices:
        emit(notice)
    if method.name == "cot" and not context.budget.thinks:
        method = METHODS["direct"]
    tasks = [] if request.bulk else [asyncio.create_task(sample_meter(context, emit))]
    if context.purse.clocked:
        tasks.append(asyncio.create_task(watch_clock(context)))
    finish: Finish
    try:
        await method.run(context)
        kept = context.kept
        finish = "length" if kept.ended_by == "length" else "budget" if kept.cut else "stop"
    except Cancelled:
        finish = "cancelled"
    except MemoryError as error:
        if context.node is None:
            raise NoMemory(str(error), "free memory, or wait until other answers have ended") from error
        finish = "length"  # what there is, is kept
    finally:
        for task in tasks:
            task.cancel()
        if context.node is not None:
            memory = backend.memory()
            for one in (*context.branches, context):
                if one.node is not None:
                    await backend.cancel(one.node, forget=request.bulk)
    assert context.node is not None  # only a failed prefill leaves none, and that raised
    kept = context.kept
    outcome = Outcome(
        spent=spent(context, fitted),
        prompt_tokens=len(context.prompt),
        sampler=sampler,
        memory=memory,
        notices=tuple(notice.text for notice in notices),
    )
    receipt = told(build(backend, clock, outcome), fitted.turns_left_out, fitted.hidden)
    receipt = context.purse.told(receipt)
    if not request.bulk:
        emit(metered(context, receipt.speed.decode_tok_s.value))
    return Answer(
        model=backend.info.name,
        method=method.label,
        answer=kept.answer.strip(),
        thinking=kept.thinking.strip(),
        finish=finish,
        candidates=tuple(
            candidate_of(one, one is kept)
            for one in context.branches or (context,)
            if one is kept or not one.unfinished
        ),
        receipt=receipt,
        summary=fitted.summary,
        decision=context.decision,
        tree=tree(context),
        trace=trace_of(request, backend, context) if request.trace else None,
    )


def _nobody_hears(event: Event) -> None:
    """Where an answer comes in bulk: its receipt has what matters."""
