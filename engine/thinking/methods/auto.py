"""auto: have the planner choose the method and how much it thinks, and say what it chose and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from engine.backend import Backend
from engine.meter.energy import Joules, rated_power
from engine.meter.tally import roofline_dtype
from engine.protocol import AnswerRequest, Event, Message, Notice
from engine.protocol.preview import Preview, PreviewRequest
from engine.protocol.receipt import Planned
from engine.thinking.formats import UnresolvedMarkers, resolve
from engine.thinking.methods import AUTO, METHODS
from engine.thinking.planner.machine import machine
from engine.thinking.planner.plan import foreseen, named, survey
from engine.thinking.planner.store import known
from engine.thinking.prompt import Renderer
from engine.thinking.refusals import UsageError


async def settled(
    request: AnswerRequest, backend: Backend, calibrations: Path | None, tell: Callable[[Event], None]
) -> tuple[AnswerRequest, Planned | None]:
    """The request with a method: for `auto` the planner's, and it is told which. Raises UsageError."""
    if request.method != AUTO:
        return request, None
    if request.think == "off":
        raise UsageError("auto chooses how much to think, but thinking is off", "leave one of the two out")
    asked = PreviewRequest(
        id=request.id,
        spec=request.spec,
        messages=request.messages,
        think=request.think,
        budget=request.budget,
    )
    found = await previewed(asked, backend, calibrations)
    row = found.chosen
    planned = Planned(
        method=row.method,
        think=row.think,
        reason=found.reason,
        accuracy=row.accuracy,
        tokens_p50=row.tokens.p50,
        tokens_p90=row.tokens.p90,
    )
    if not request.bulk:
        tell(Notice(code="auto", text=f"auto: {named(row.method, row.think)}, {found.reason}"))
    return structs.replace(request, method=row.method, think=row.think), planned


async def previewed(request: PreviewRequest, backend: Backend, calibrations: Path | None) -> Preview:
    """What each way to answer would cost this model here. Raises UsageError."""
    question = request.messages[-1] if request.messages else Message("user", "")
    if question.role != "user" or not question.content.strip():
        raise UsageError("the prompt is empty", "type a question")
    info = backend.info
    power = Joules(backend.profile, info, None, 0)  # what a budget in joules would be kept by
    found = known(info, calibrations)
    here = machine(backend.shape, backend.profile, roofline_dtype(backend), found.curve, power.watts)
    prompt = await _prompt_tokens(request, backend)
    ways = survey(info, question.content, prompt, found, here, METHODS, request.think)
    preview = foreseen(info, prompt, ways, request.budget, found, here)
    if rated_power(backend.profile, info) is None:
        preview = structs.replace(preview, notes=(*preview.notes, f"joules are {power.drawn().source}"))
    return preview


async def _prompt_tokens(request: PreviewRequest, backend: Backend) -> int:
    """Of the whole conversation; at most what the context has."""
    try:
        style = resolve(backend.tokenizer, backend.info.thinking_format)
    except UnresolvedMarkers:
        style = None
    renderer = Renderer(backend.tokenizer, style, backend.info.context)
    if renderer.is_hopeless(request.messages):
        return backend.info.context
    prompt = await renderer.prompt(request.messages, think=style is not None)
    return min(len(prompt.ids), backend.info.context)
