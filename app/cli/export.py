"""`mull export`: a conversation as a file."""

from __future__ import annotations

from pathlib import Path

import click

from app.cli.output import show
from app.sessions import export as formats
from app.sessions.store import Store


@click.command()
@click.argument("session", metavar="ID")
@click.option(
    "--format",
    "name",
    type=click.Choice(list(formats.FORMATS)),
    help="md to read, json with everything. [default: the file's ending, else md]",
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE instead of stdout.")
@click.option("--force", is_flag=True, help="Replace FILE where it is there.")
def export(session: str, name: str | None, output: str | None, force: bool) -> None:
    """Write the conversation ID: what was said, thought and what each answer cost.

    ID is what `mull sessions` lists, the beginning of one, or `last`. Markdown has the latest path of the
    conversation; JSON has all its branches.
    """
    store = Store()
    ending = Path(output).suffix.lstrip(".") if output else ""
    chosen = name or (ending if ending in formats.FORMATS else "md")
    text = formats.render(store.read(store.resolve(session)), chosen)
    if output in (None, "-"):
        show(text)
    else:
        formats.write(text, Path(output), force=force)
