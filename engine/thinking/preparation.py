"""From a request to what its method works with; where that cannot be, one line says why. Knows no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakSet

from engine.backend import Backend, Lease, Sampler
from engine.meter.receipt import Clock
from engine.meter.tally import Tally
from engine.protocol import AnswerRequest, Event, Notice, Sampling
from engine.thinking import budget as budgets
from engine.thinking.context import Context
from engine.thinking.fitting import Fitted, fit
from engine.thinking.formats import Resolved, UnresolvedMarkers, resolve
from engine.thinking.methods import Method, method_of
from engine.thinking.prompt import Renderer
from engine.thinking.purse import Purse
from engine.thinking.refusals import UsageError
from engine.thinking.steering import Steering
from engine.thinking.verifiers.tests import check as check_tests

_UNVERIFIED_TOLD: WeakSet[Backend] = WeakSet()
"""Backends of which it was said that their thinking format is not verified: once is enough."""
SAMPLING_TEMPERATURE = 0.8
"""Of methods with several candidates, where the model's own is 0 and nothing else was asked for."""


def method_and_format(request: AnswerRequest, backend: Backend) -> tuple[Method, Resolved | None]:
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


def sampler_of(asked: Sampling, defaults: Sampler, method: Method) -> Sampler:
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


async def prepared(
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
        notes.append(
            "this model has no thinking format that mull knows: it answers directly; "
            "--step-by-step has it think in words first"
        )
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
        opening=0 if style is None else style.to_open(prompt.opened),
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
