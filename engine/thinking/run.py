"""Answer one request: choose the method, set the budget, run it, and make the receipt. Knows no torch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakSet

from msgspec import structs

from engine.backend import EVICTED, Backend, Lease, Sampler
from engine.meter.receipt import Clock, Outcome, Spent, build
from engine.meter.tally import Tally
from engine.protocol import (
    Answer,
    AnswerNow,
    AnswerRequest,
    Cancel,
    Candidate,
    Control,
    Event,
    Metered,
    More,
    Notice,
    Sampling,
    Started,
    TreeNode,
)
from engine.protocol.receipt import Finish
from engine.protocol.trace import Trace
from engine.thinking import budget as budgets
from engine.thinking.confidence import confidence
from engine.thinking.context import Cancelled, Context
from engine.thinking.fitting import Fitted, fit
from engine.thinking.formats import Resolved, UnresolvedMarkers, resolve
from engine.thinking.hidden import charged, told
from engine.thinking.methods import METHODS, Method, method_of
from engine.thinking.methods.agent import introduced
from engine.thinking.prompt import Renderer
from engine.thinking.purse import Purse
from engine.thinking.refusals import NoMemory, UsageError
from engine.thinking.trace import trace
from engine.thinking.verifiers.tests import check as check_tests

__all__ = ["Steering", "UsageError", "answer"]

METER_PERIOD_S = 0.1
CLOCK_PERIOD_S = 0.002
_UNVERIFIED_TOLD: WeakSet[Backend] = WeakSet()
"""Backends of which it was said that their thinking format is not verified: once is enough."""
SAMPLING_TEMPERATURE = 0.8
"""Of methods with several candidates, where the model's own is 0 and nothing else was asked for."""


@dataclass
class Steering:
    """Takes controls to the leases of a running answer; a cancellation may come before it runs."""

    context: Context | None = None
    cancelled: bool = False
    hidden: Lease | None = None
    """Of the work before the answer."""

    def lend(self, tokens: int) -> Lease:
        """A lease for work before the answer, which a cancellation ends too."""
        self.hidden = Lease(tokens, cancelled=self.cancelled)
        return self.hidden

    def control(self, control: Control) -> None:
        if isinstance(control, Cancel):
            self.cancelled = True
            if self.hidden is not None:
                self.hidden.cancelled = True
        if self.context is None:
            return
        if isinstance(control, More) and control.tokens > 0:
            self.context.purse.more(control.tokens)
        for one in (self.context, *self.context.branches):
            if isinstance(control, Cancel):
                one.budget.lease.cancelled = one.answer_lease.cancelled = True
            elif isinstance(control, AnswerNow):
                one.budget.lease.ended = True
            else:
                one.budget.more(control.tokens)
                one.refit()


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
    method, style = _method(request, backend)
    sampler = _sampler(request.sampling, backend.defaults, method)
    if method.name == "agent" and request.messages:
        with_tools = introduced(request.messages, style, method.number or 1, request.allow_python)
        request = structs.replace(request, messages=with_tools)
    context, fitted, notices = await _context(request, backend, method, style, sampler, emit, steering, clock)
    steering.context = context
    if steering.cancelled:
        steering.control(Cancel())
    started = Started(
        answer_id=request.id,
        model=backend.info.name,
        method=method.label,
        prompt_tokens=len(context.prompt),
        context=backend.info.context,
        thinking_limit=_limit(context),
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
    tasks = [] if request.bulk else [asyncio.create_task(_sample_meter(context, emit))]
    if context.purse.clocked:
        tasks.append(asyncio.create_task(_watch_clock(context)))
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
        spent=_spent(context, fitted),
        prompt_tokens=len(context.prompt),
        sampler=sampler,
        memory=memory,
        notices=tuple(notice.text for notice in notices),
    )
    receipt = told(build(backend, clock, outcome), fitted.turns_left_out, fitted.hidden)
    receipt = context.purse.told(receipt)
    if not request.bulk:
        emit(_metered(context, receipt.speed.decode_tok_s.value))
    return Answer(
        model=backend.info.name,
        method=method.label,
        answer=kept.answer.strip(),
        thinking=kept.thinking.strip(),
        finish=finish,
        candidates=tuple(
            _candidate(one, one is kept)
            for one in context.branches or (context,)
            if one is kept or not one.unfinished
        ),
        receipt=receipt,
        summary=fitted.summary,
        decision=context.decision,
        tree=_tree(context),
        trace=_trace(request, backend, context) if request.trace else None,
    )


def _tree(context: Context) -> tuple[TreeNode, ...]:
    shown = {one.candidate for one in context.kept.path}
    return tuple(structs.replace(node, kept=node.kept or node.id in shown) for node in context.told.values())


def _candidate(one: Context, kept: bool) -> Candidate:
    return Candidate(
        id=one.candidate,
        answer=one.answer.strip(),
        tokens=one.tally.answer_tokens,
        thinking_tokens=sum(step.tally.thinking_tokens for step in one.path),
        kept=kept,
        score=one.score,
        confidence=confidence(one.watched),
    )


def _spent(context: Context, fitted: Fitted) -> tuple[Spent, ...]:
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


def _trace(request: AnswerRequest, backend: Backend, context: Context) -> Trace | None:
    """How each token of each candidate came about."""
    own = "" if context.branches else context.candidate
    nodes = [(own, context.node), *((one.candidate, one.node) for one in context.branches)]
    return trace(request, backend, ((name, node) for name, node in nodes if node is not None))


def _method(request: AnswerRequest, backend: Backend) -> tuple[Method, Resolved | None]:
    """The method asked for, or the one that the thinking asked for implies, and the model's format."""
    wants_thought = request.think not in ("off", 0)
    name = request.method or ("cot" if wants_thought else "direct")
    method = method_of(name)
    if isinstance(request.think, int) and request.think < 0:
        raise UsageError(
            f"a thinking budget of {request.think} tokens is negative", "say off, a number or max"
        )
    if method.thinks and (method.searches or not method.samples) and not wants_thought:
        raise UsageError(f"method {name!r} thinks, but thinking is off", "leave one of the two out")
    if request.verifier is not None and request.verifier.name == "tests":
        check_tests(request.verifier.tests)
    if request.method is not None and not method.thinks and isinstance(request.think, int) and wants_thought:
        raise UsageError(
            f"method {name!r} does not think, but {request.think} tokens of thinking were asked for",
            "leave one of the two out",
        )
    try:
        style = resolve(backend.tokenizer, backend.info.thinking_format)
    except UnresolvedMarkers as error:
        if method.thinks:
            raise UsageError(str(error), "ask with thinking off") from error
        style = None
    return method, style


def _sampler(asked: Sampling, defaults: Sampler, method: Method) -> Sampler:
    sampler = Sampler(
        temperature=defaults.temperature if asked.temperature is None else asked.temperature,
        top_p=defaults.top_p if asked.top_p is None else asked.top_p,
        top_k=defaults.top_k if asked.top_k is None else asked.top_k,
        seed=asked.seed,
    )
    if not 0 <= sampler.temperature < 100:
        raise UsageError(f"a temperature of {sampler.temperature} is not in 0..100")
    if not 0 < sampler.top_p <= 1:
        raise UsageError(f"a top-p of {sampler.top_p} is not in (0, 1]")
    if sampler.top_k < 0:
        raise UsageError(f"a top-k of {sampler.top_k} is negative")
    if method.samples and sampler.temperature == 0:
        if asked.temperature is not None:
            raise UsageError(
                f"at temperature 0 all candidates of {method.label} are alike", "leave --temperature out"
            )
        sampler = replace(sampler, temperature=SAMPLING_TEMPERATURE)
    return sampler


async def _context(
    request: AnswerRequest,
    backend: Backend,
    method: Method,
    style: Resolved | None,
    sampler: Sampler,
    emit: Callable[[Event], None],
    steering: Steering,
    clock: Clock,
) -> tuple[Context, Fitted, list[Notice]]:
    """The method's context, what of the conversation its prompt holds, and what the person should know."""
    if request.max_tokens is not None and request.max_tokens < 1:
        raise UsageError(
            f"an answer of at most {request.max_tokens} tokens would be empty", "allow at least 1"
        )
    if not any(message.role == "user" and message.content.strip() for message in request.messages[-1:]):
        raise UsageError("the prompt is empty", "type a question")
    notes: list[str] = []
    if not backend.tokenizer.has_template:
        notes.append("this model has no chat template: a plain one is used, and answers may be odd")
    if style is not None and not style.format.verified and backend not in _UNVERIFIED_TOLD:
        _UNVERIFIED_TOLD.add(backend)
        notes.append(
            f"how this family ({style.format.name}) marks its thoughts is hearsay: see whether budgets hold"
        )
    think = request.think if method.thinks else "off"
    if method.thinks and style is None:
        notes.append("this model has no thinking format that mull knows: it answers directly")
        think = "off"
    renderer = Renderer(backend.tokenizer, style, backend.info.context)
    fitted = await fit(request, backend, renderer, think != "off", emit, steering.lend)
    prompt = fitted.prompt
    room = backend.info.context - len(prompt.ids)
    phrase = 0 if style is None else len(style.forced_end)
    purse = Purse(request.budget, backend, clock)
    purse.charge(fitted.hidden)
    left = purse.room(len(prompt.ids), await backend.cached(prompt.ids)) if purse.counted else None
    budget = budgets.plan(
        think,
        room,
        opening=0 if prompt.opened or style is None else len(style.opening),
        phrase=phrase,
        purse=left,
        answer=backend.info.answer_reserve,
    )
    budget.least = _least(request, budget)
    if budget.note:
        notes.append(budget.note)
    if think != "off" and not budget.thinks:
        prompt = await renderer.prompt(fitted.messages, think=False)
    tally = Tally(
        backend,
        accepted_ns=clock.accepted_ns,
        prompt_tokens=len(prompt.ids),
        prefill_began_ns=time.monotonic_ns(),
    )
    context = Context(
        backend=backend,
        format=style,
        budget=budget,
        sampler=sampler,
        prompt=prompt.ids,
        opened=prompt.opened,
        answer_lease=Lease(request.max_tokens or room),
        tally=tally,
        purse=purse,
        emit=emit,
        watch=request.confidence,
        live=not request.bulk,
        number=method.number or 1,
        python=request.allow_python,
        messages=fitted.messages,
        answer_type=request.answer_type,
        verifier=request.verifier,
    )
    notices = [Notice(code="overflow", text=note) for note in fitted.notices]
    return context, fitted, notices + [Notice(code="thinking", text=note) for note in notes]


def _least(request: AnswerRequest, budget: budgets.ThinkingBudget) -> int:
    """Tokens that are to be thought at least. Raises UsageError where nothing could be so much."""
    least, think = request.least_thinking, request.think
    if least < 0:
        raise UsageError(f"a minimum of {least} tokens of thinking is negative")
    if least and (think == "off" or (isinstance(think, int) and think < least)):
        raise UsageError(
            f"at least {least} tokens of thinking are more than the {think} that are allowed",
            "lower one, or raise the other",
        )
    total = next((limit.amount for limit in request.budget if limit.unit == "tok"), None)
    if least and total is not None and budget.bound < least:
        raise UsageError(
            f"at least {least} tokens of thinking do not fit into a budget of {total:,.0f} tokens",
            "lower one, or raise the other",
        )
    return least


def _nobody_hears(event: Event) -> None:
    """Where an answer comes in bulk: its receipt has what matters."""


async def _watch_clock(context: Context) -> None:
    """Hold all that runs to the time that is left, a few times in each step."""
    while True:
        step_s = context.purse.step_seconds() or 0.0
        await asyncio.sleep(min(max(step_s / 4, CLOCK_PERIOD_S), METER_PERIOD_S))
        for one in (context, *context.branches):
            one.refit()


def _limit(context: Context) -> int:
    """Tokens that each candidate may think; by the clock it cannot be told."""
    return context.budget.bound if context.purse.counted else context.budget.limit


def _metered(context: Context, final_tok_s: float | None = None) -> Metered:
    sample = context.tally.metered(_limit(context), final_tok_s)
    return structs.replace(sample, budget=context.purse.now())


async def _sample_meter(context: Context, emit: Callable[[Event], None]) -> None:
    """The live figures, and what gave way for want of memory, as it happens."""
    said = 0
    while True:
        await asyncio.sleep(METER_PERIOD_S)
        emit(_metered(context))
        nodes = [one.node for one in (context, *context.branches) if one.node is not None]
        degradations = list(dict.fromkeys(event for node in nodes for event in node.account.degradations))
        for event in degradations[said:]:
            emit(Notice(code="cache" if event == EVICTED else "memory", text=event))
        said = len(degradations)
