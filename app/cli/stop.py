"""`mull stop`: end the resident engine and free its memory."""

from __future__ import annotations

import asyncio

import click

from app.cli.engine import open_engine


@click.command()
def stop() -> None:
    """End the resident engine; an answer under way is stopped, keeping what it has said."""
    click.echo("the engine has left" if asyncio.run(_stop()) else "no engine was running")


async def _stop() -> bool:
    engine = open_engine()
    try:
        return await engine.shutdown()
    finally:
        await engine.close()
