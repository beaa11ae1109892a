"""`mull ps`: the resident engine, its model and its memory."""

from __future__ import annotations

import asyncio

import click

from app import figures
from app.cli.engine import open_engine
from app.cli.output import show_json
from app.sanitise import clean
from engine.protocol import EngineStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, null where no engine runs.")
def ps(as_json: bool) -> None:
    """Show the resident engine: its model, memory and clients."""
    status = asyncio.run(_status())
    if as_json:
        show_json(status)
    elif status is None:
        click.echo("no engine is running; the next question starts one")
    else:
        for name, value in _lines(status):
            click.echo(f"{name:10} {clean(value)}")


async def _status() -> EngineStatus | None:
    engine = open_engine()
    try:
        return await engine.status()
    finally:
        await engine.close()


def _lines(status: EngineStatus) -> list[tuple[str, str]]:
    model = status.model
    dtypes = f"{model.weights}, KV {model.kv_dtype}" if model else ""
    leaves = "in use" if status.unloads_in_s is None else f"leaves in {figures.seconds(status.unloads_in_s)}"
    return [
        ("process", f"{status.pid}, up {figures.seconds(status.uptime_s)}, {leaves}"),
        (
            "model",
            f"{model.name} ({dtypes} on {model.device}, {model.context} tokens)" if model else "none",
        ),
        *([("quantized", model.quantization)] if model and model.quantization else []),
        ("profile", model.profile if model else "none"),
        (
            "memory",
            f"{figures.size(status.memory_bytes)}, {figures.size(status.kv_idle_bytes)} of it prompt cache",
        ),
        ("answers", f"{status.answering} running, {status.queued} waiting"),
        ("clients", str(status.clients - 1)),
        ("log", status.log),
    ]
