"""`mull ask --preview`: what an answer would cost with each method, in a table; nothing is answered."""

from __future__ import annotations

from contextlib import aclosing

from app import config, figures
from app.cli.engine import failure, open_engine
from app.cli.output import StatusLine, show, show_json, show_table, warn
from app.errors import CommandError
from app.foreseen import HEADINGS, LEGEND, SHARES, cells, named, sources
from engine.protocol import AnswerRequest, Failed, Loading, Queued
from engine.protocol.preview import Preview, Previewed, PreviewRequest


async def foresee(asked: AnswerRequest, settings: config.Settings) -> Preview:
    """What the answer to this would cost. Raises CommandError."""
    request = PreviewRequest(
        id=asked.id, spec=asked.spec, messages=asked.messages, think=asked.think, budget=asked.budget
    )
    engine = open_engine(settings)
    status = StatusLine()
    try:
        async with aclosing(engine.preview(request)) as events:
            async for event in events:
                match event:
                    case Loading(stage=stage):
                        status.show(f"{stage}…")
                    case Queued(ahead=ahead):
                        status.show(f"waiting for {ahead} {'answer' if ahead == 1 else 'answers'} to end…")
                    case Failed():
                        raise failure(event)
                    case Previewed(preview=found):
                        return found
    finally:
        status.clear()
        await engine.close()
    raise CommandError("the engine ended without a preview", "try again")


def show_preview(found: Preview, as_json: bool) -> None:
    """The table, the choice and where the figures are from."""
    if as_json:
        show_json(found)
        return
    show(f"{found.model}: a prompt of {figures.count(found.prompt_tokens)} tokens")
    show("")
    show_table(HEADINGS, [cells(row) for row in found.rows])
    show("")
    show(f"auto would take {named(found.chosen)}, {found.reason}")
    show(LEGEND)
    show(SHARES)
    show(sources(found))
    for note in found.notes:
        warn(note)
