"""`mull models`: the models on this machine, how to name them, and whether they fit."""

from __future__ import annotations

import sys

import click

from app import config, figures, locations
from app.cli.output import show_json, show_table
from app.errors import CommandError
from app.sanitise import clean_line
from engine.catalog.models import Listed, list_models
from engine.catalog.removal import CannotRemove, removable_bytes
from engine.catalog.removal import remove as delete
from profiles.detect import detect
from profiles.machine import free_memory

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the models on this machine: how to name them, their size, and whether they fit.

    Reads headers only. A model fits where its weights and a default context go into the memory that is free
    now; tight means less context. What does not fit may do so with --quant, or when other programs end.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)
    elif as_json:
        raise click.UsageError("--json belongs to the list", ctx)


def _list(as_json: bool) -> None:
    settings = config.load().settings
    found = detect(
        settings.profile, device=settings.device or "auto", user_dir=locations.profiles_directory()
    )
    device = found.settings.device
    free = free_memory(None if device == "cpu" else int(device.partition(":")[2] or 0))
    listed = list(list_models(found.settings.dtype, free, found.settings.device))
    if as_json:
        show_json(listed)
        return
    show_table(("disk", "weights", "memory", "fits", "name"), _rows(listed))
    click.echo(f"\n{figures.size(free)} free on {device}")
    for model in listed:
        if model.problem is not None:
            click.echo(f"{clean_line(model.name)}: {clean_line(model.problem)}")


def _rows(listed: list[Listed]) -> list[tuple[str, ...]]:
    """The name comes last: it may be long, and has to be copied whole."""
    rows: list[tuple[str, ...]] = []
    for model in listed:
        memory = figures.UNKNOWN if model.memory_bytes is None else figures.size(model.memory_bytes)
        rows.append((figures.size(model.disk_bytes), model.weights or "", memory, _fits(model), model.name))
    return rows


def _fits(model: Listed) -> str:
    match model.fits:
        case None:
            return "unreadable"
        case "tight":
            return f"tight, {figures.count(model.context or 0)} tokens"
        case verdict:
            return verdict


@models.command("rm")
@click.argument("repositories", metavar="REPO...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(repositories: tuple[str, ...], yes: bool) -> None:
    """Remove repositories from the Hugging Face cache, with all their files.

    Other programs' models are theirs to remove.
    """
    try:
        doomed = {name: figures.size(removable_bytes(name)) for name in dict.fromkeys(repositories)}
    except CannotRemove as error:
        raise CommandError(str(error), error.hint) from error
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "without a terminal to ask at, removing needs --yes", click.get_current_context()
            )
        for name, size in doomed.items():
            click.echo(f"{clean_line(name)}, {size}")
        if not click.confirm("Remove from the disk?"):
            raise CommandError("nothing was removed")
    for name, size in doomed.items():
        try:
            delete(name)
        except CannotRemove as error:
            raise CommandError(str(error), error.hint) from error
        click.echo(f"removed {clean_line(name)}, {size}")
