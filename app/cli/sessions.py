"""`mull sessions`: list, show, search and delete conversations."""

from __future__ import annotations

import sys
from datetime import datetime

import click

from app.cli.output import show, show_json, show_table
from app.errors import CommandError
from app.sanitise import clean_line
from app.sessions.store import Store

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def sessions(ctx: click.Context, as_json: bool) -> None:
    """List, show, search and delete conversations.

    An ID is what `mull sessions` lists, the beginning of one, or `last`.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)
    elif as_json:
        raise click.UsageError(
            f"--json belongs after the command: mull sessions {ctx.invoked_subcommand} --json", ctx
        )


@sessions.command("list")
@json_option
def list_sessions(as_json: bool) -> None:
    """List all conversations, the one used last first."""
    _list(as_json)


def _list(as_json: bool) -> None:
    found = Store().summaries()
    if as_json:
        show_json(found)
    elif found:
        rows = [
            (item.id, local(item.updated), str(item.turns), item.model or "", item.name or "(nothing said)")
            for item in found
        ]
        show_table(("id", "last used", "turns", "model", "name"), rows)
    else:
        click.echo("no session yet; start one with: mull")


@sessions.command("show")
@click.argument("session", metavar="ID")
@json_option
def show_session(session: str, as_json: bool) -> None:
    """Print a conversation with what each answer cost."""
    from app.sessions import export

    store = Store()
    show(export.render(store.read(store.resolve(session)), "json" if as_json else "md"))


@sessions.command("search")
@click.argument("text")
@json_option
def search_sessions(text: str, as_json: bool) -> None:
    """Find the turns that contain TEXT, in upper or lower case."""
    if not text.strip():
        raise click.UsageError("the text to search for is empty", click.get_current_context())
    found = Store().search(text)
    if as_json:
        show_json(found)
    elif found:
        show_table(("id", "turn", "text"), [(item.id, item.turn, item.excerpt) for item in found])
    else:
        click.echo("nothing found")


@sessions.command("delete")
@click.argument("session_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete_sessions(session_ids: tuple[str, ...], yes: bool) -> None:
    """Delete conversations for good."""
    store = Store()
    doomed = [store.resolve(text) for text in session_ids]
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "without a terminal to ask at, deleting needs --yes", click.get_current_context()
            )
        for session_id in doomed:
            click.echo(f"{session_id}  {clean_line(store.read(session_id).name)}")
        if not click.confirm("Delete for good?"):
            raise CommandError("nothing was deleted")
    for session_id in doomed:
        store.delete(session_id)
        click.echo(f"deleted {session_id}")


def local(time: datetime) -> str:
    """A time as the person's clock shows it."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}"
