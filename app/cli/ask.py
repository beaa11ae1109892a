"""`mull ask`: one answer. Piped, the answer alone on stdout; everything else on stderr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

import click
from msgspec.structs import replace

from app import config, figures, search_tree
from app.cli.engine import failure, open_engine
from app.cli.output import StatusLine, show_json
from app.cli.preview import foresee, show_preview
from app.errors import CommandError, reason
from app.sanitise import Sanitiser, clean
from app.sessions.journal import storable
from app.sessions.recorder import Recorder
from app.sessions.tree import Turn
from app.verifying import read_verifier
from engine.client import ResidentEngine
from engine.protocol import (
    QUIET,
    Answer,
    AnswerRequest,
    Delta,
    Event,
    Failed,
    Finished,
    Loading,
    Message,
    Metered,
    Notice,
    Queued,
    Started,
    Voted,
)
from engine.protocol.settling import Settled, SettlingRequest

MAX_STDIN = 16 * 1024 * 1024


@click.command(
    epilog="""\b
Examples:
  mull ask "What is 4748 + 2674?"
  mull ask --think 32 "What is 4748 + 2674?"
  cat notes.txt | mull ask "Summarize this"
  mull ask --json "What is 3 * 17?" | jq .receipt.tokens
"""
)
@click.argument("prompt", required=False)
@click.option(
    "--model", metavar="NAME|PATH|REPO", help="A folder, a GGUF file, or a name (see: mull models)."
)
@click.option("--profile", metavar="NAME", help="The hardware profile to run with (see: mull profiles).")
@click.option("--device", metavar="cpu|cuda[:N]", help="Where to run.")
@click.option("--threads", type=int, metavar="N", help="CPU threads of the engine.")
@click.option("--context", type=int, metavar="N", help="Tokens of context to load the model with.")
@click.option(
    "--quant",
    metavar="none|int8|int4|fp8|auto",
    help="Quantize the weights as they are loaded. PATTERN=KIND after a comma excepts some: "
    "int4,down_proj=int8; auto goes by the hardware and its free memory.",
)
@click.option(
    "--kv",
    metavar="model|int8",
    help="How keys and values are kept: in the model's own dtype, or rounded to int8, for less memory.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    default=None,
    help="The same bits, cached or not, alone or beside others; slower (standard decoders, CPU).",
)
@click.option(
    "--draft",
    metavar="MODEL|exit:N|off",
    help="Who guesses tokens ahead: a smaller model, the model's first N layers, or nobody. "
    "The default guesses what the text repeats, where that pays.",
)
@click.option(
    "--think",
    metavar="off|auto|max|N",
    help="How many tokens the answer may think; auto has the method planned, too.",
)
@click.option(
    "--min-think", type=int, metavar="N", help="Tokens below which the model may not end its thought."
)
@click.option(
    "--step-by-step",
    is_flag=True,
    default=None,
    help="Have a model that marks no thoughts think in words first, within the same budgets.",
)
@click.option(
    "--budget",
    multiple=True,
    metavar="2000tok|30s|2kJ|5TFLOP",
    help="The most that the whole answer may spend, hidden work included; may be repeated: "
    "the tightest binds.",
)
@click.option(
    "--method",
    metavar="NAME",
    help="direct (no thinking), cot (think, then answer), exit (cot until the answer is settled), refine:K "
    "(cot, its sums checked as they are written), vote:N, deepconf:N or best:N (of N answers), beam:N or "
    "mcts:N (a search over steps), agent:K (with a calculator), cascade (more only where that is not "
    "sure), auto (what pays most here, see --preview).",
)
@click.option(
    "--type",
    metavar="number|choice|expression|json|code|text",
    help="How answers are compared with each other; the default is what they look like.",
)
@click.option(
    "--verifier",
    metavar="steps|confidence|tests:FILE|judge|consistency",
    help="Who chooses among several answers; tests:FILE runs their code against Python tests, shut in.",
)
@click.option(
    "--settling", is_flag=True, help="Find out afterwards where the thought settled, by probes; on stderr."
)
@click.option("--allow-python", is_flag=True, help="agent may run the model's Python, shut in.")
@click.option("--system", metavar="TEXT", help="A system message.")
@click.option("--temperature", type=float, metavar="T", help="0 is greedy; the default is the model's own.")
@click.option("--top-p", type=float, metavar="P", help="Sample from the likeliest tokens that make up P.")
@click.option("--top-k", type=int, metavar="K", help="Sample from the K likeliest tokens.")
@click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer.")
@click.option("--max-tokens", type=int, metavar="N", help="Cap the visible answer.")
@click.option("--confidence", is_flag=True, default=None, help="Measure how sure the model is of its tokens.")
@click.option(
    "--overflow",
    metavar="stop|drop|summarize",
    help="When the context is full: no answer, leave out the oldest turns, or summarize them.",
)
@click.option(
    "--keep-alive",
    metavar="10m",
    help="How long the engine stays when idle, until told otherwise; 0: not at all.",
)
@click.option("--offline", is_flag=True, default=None, help="Touch no network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the answer with its receipt.")
@click.option("--trace", is_flag=True, help="With --json: how each token came about, for mull replay.")
@click.option("--stats", is_flag=True, help="Print what the answer cost on stderr.")
@click.option(
    "--preview",
    is_flag=True,
    help="Answer nothing: show what each method would cost, and how often it is right.",
)
@click.option("--save", is_flag=True, help="Keep question and answer as a session.")
@click.option("-c", "--continue", "go_on", is_flag=True, help="Go on with the last session, and keep this.")
def ask(
    prompt: str | None,
    system: str | None,
    as_json: bool,
    trace: bool,
    settling: bool,
    stats: bool,
    preview: bool,
    save: bool,
    go_on: bool,
    allow_python: bool,
    budget: tuple[str, ...],
    **flags: str | float | bool | None,
) -> None:
    """Ask PROMPT and print the answer.

    PROMPT may be - for standard input; a prompt and piped input are joined, the prompt first.
    """
    configuration = config.load({**flags, "budget": ",".join(budget) or None})
    for warning in configuration.warnings:
        click.echo(clean(warning), err=True)
    settings = configuration.settings
    if preview and (save or go_on):
        raise CommandError("--preview answers nothing", "leave --save and --continue out", status=2)
    text, system = storable(_prompt(prompt)), storable(system or "")
    recorder = None
    if save or go_on:
        recorder = Recorder.resume("last") if go_on else Recorder.create()
        if system and recorder.leaf is not None:
            recorder.close()
            raise CommandError(
                "--system comes too late: the session already has its beginning",
                "leave it out, or begin another session with --save",
                status=2,
            )
        if system:
            recorder.system_turn(system)
        recorder.user_turn(text)
        messages, summary = recorder.messages(), recorder.summary()
    else:
        summary = None
        messages = ((Message("system", system),) if system else ()) + (Message("user", text),)
    request = AnswerRequest(
        id=f"ask-{os.getpid()}",
        spec=settings.spec(),
        messages=messages,
        method=settings.method,
        answer_type=settings.type,
        verifier=read_verifier(settings.verifier),
        think=settings.think,
        least_thinking=settings.min_think,
        budget=settings.limits(),
        sampling=settings.sampling(),
        max_tokens=settings.max_tokens,
        confidence=settings.confidence,
        allow_python=allow_python,
        overflow=settings.overflow,
        summary=summary,
        trace=trace or settling or recorder is not None,
    )
    if preview:
        show_preview(asyncio.run(foresee(request, settings)), as_json)
        return
    try:
        answer = asyncio.run(_ask(request, settings, recorder, as_json, settling))
    finally:
        if recorder is not None:
            recorder.close()
    if as_json:
        show_json(answer)
    if stats:
        for line in search_tree.lines(answer):
            click.echo(click.style(line, dim=True), err=True)
    if stats or (sys.stderr.isatty() and not as_json):
        click.echo(click.style(figures.receipt_line(answer), dim=True), err=True)
    elif answer.finish == "length" and not as_json:
        click.echo("the answer was cut at its token limit", err=True)
    if answer.settling is not None and not as_json:
        click.echo(click.style(figures.settled(answer.settling), dim=True), err=True)
    if not as_json and any(state.spent.method == "modelled" for state in answer.receipt.budget):
        click.echo("joules are estimated: there is no energy counter here", err=True)
    if answer.finish == "cancelled":
        raise CommandError("the engine was stopped before the answer ended", "ask again")


def _prompt(argument: str | None) -> str:
    """The prompt from the argument, standard input, or both."""
    piped = ""
    if argument == "-" or not sys.stdin.isatty():
        try:
            raw = sys.stdin.buffer.read(MAX_STDIN + 1)
        except OSError as error:
            raise CommandError(f"cannot read standard input: {reason(error)}") from error
        if len(raw) > MAX_STDIN:
            raise CommandError(f"standard input is longer than {MAX_STDIN // 2**20} MiB", "pass less of it")
        piped = raw.decode("utf-8", errors="replace")
    parts = [argument if argument not in (None, "-") else "", piped]
    text = "\n\n".join(part.strip("\n") for part in parts if part and part.strip())
    if not text.strip():
        raise CommandError("the prompt is empty", 'say: mull ask "your question"', status=2)
    return text


async def _ask(
    request: AnswerRequest,
    settings: config.Settings,
    recorder: Recorder | None,
    as_json: bool,
    settling: bool,
) -> Answer:
    """Run the request, streaming the answer to stdout unless it is printed as JSON."""
    engine = open_engine(settings)
    status = StatusLine()
    turn = recorder.answer_turn(request) if recorder is not None else None
    try:
        async with aclosing(_recorded(engine.answer(request), turn, recorder)) as events:
            answer = await _follow(events, status, quiet=as_json)
        if settling and (found := await _settled(engine, request, answer)) is not None:
            if recorder is not None and turn is not None:
                recorder.event(turn, found)
            answer = replace(answer, settling=found.settling)
        return answer
    finally:
        status.clear()
        await engine.close()


async def _recorded(
    events: AsyncGenerator[Event, None], turn: Turn | None, recorder: Recorder | None
) -> AsyncGenerator[Event, None]:
    """The same events, each written to the session's journal before anybody sees it."""
    async with aclosing(events):
        async for event in events:
            if recorder is not None and turn is not None:
                recorder.event(turn, event)
            yield event


async def _settled(engine: ResidentEngine, request: AnswerRequest, answer: Answer) -> Settled | None:
    """Where its thought settled; where that is not found out, it is said why."""
    asked = SettlingRequest(id=f"{request.id}-settling", spec=request.spec, answer=answer)
    async with aclosing(engine.settling(asked)) as events:
        async for event in events:
            match event:
                case Settled():
                    return event
                case Failed(message=message):
                    click.echo(f"where the thought settled was not found out: {clean(message)}", err=True)
    return None


async def _follow(events: AsyncGenerator[Event, None], status: StatusLine, quiet: bool) -> Answer:
    sanitiser = Sanitiser()
    on_screen = sys.stdout.isatty()
    said, candidates, standing = False, 1, ""
    async for event in events:
        match event:
            case Loading(stage=stage, done=done, total=total):
                share = f" {figures.size(done)} of {figures.size(total)}" if done and total else ""
                status.show(f"{stage}{share}…")
            case Queued(ahead=ahead):
                status.show(f"waiting for {ahead} other {'answer' if ahead == 1 else 'answers'}…")
            case Metered(thinking_tokens=thought, thinking_limit=limit) if not said and thought:
                of = f"/{figures.count(limit)}" if candidates == 1 else f" in {standing}"
                status.show(f"thinking {figures.count(thought)}{of}…")
            case Started(turns_left_out=turns, summary=summary):
                candidates = event.candidates
                standing = f"up to {candidates} answers"
                if turns:
                    status.clear()
                    click.echo(clean(figures.turns_left_out(turns, summary)), err=True)
            case Voted():
                standing = figures.standing(event)
            case Notice(code=code, text=text) if code not in QUIET:
                status.clear()
                click.echo(clean(text), err=True)
            case Delta(phase="answer", text=text) if not quiet and candidates == 1:
                status.clear()
                said = True
                click.echo(sanitiser.feed(text) if on_screen else text, nl=False)
                sys.stdout.flush()
            case Failed():
                status.clear()
                if said:
                    click.echo()
                raise failure(event)
            case Finished(answer=answer):
                status.clear()
                if not quiet:
                    if candidates > 1:
                        click.echo(clean(answer.answer) if on_screen else answer.answer, nl=False)
                    click.echo(sanitiser.flush() if on_screen else "")
                return answer
    raise CommandError("the engine ended without an answer", "ask again")
