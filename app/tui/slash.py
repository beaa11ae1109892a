"""Slash commands: from a typed line to the action of the command in the registry."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from app import config
from app.errors import CommandError
from app.tui import full_context
from app.tui.commands import COMMANDS, Command, find_slash
from app.tui.themes import OWN

if TYPE_CHECKING:
    from app.tui.screens.chat import ChatScreen


async def run_slash(screen: ChatScreen, line: str) -> None:
    """Do what the line says, or tell what is wrong with it."""
    name, _, argument = line[1:].strip().partition(" ")
    command = find_slash(name)
    try:
        if command is None:
            raise _unknown(name)
        if argument and not command.argument:
            raise CommandError(f"/{name} takes nothing after it")
        await _run(screen, command, argument.strip())
    except CommandError as error:
        screen.report(error)


async def _run(screen: ChatScreen, command: Command, argument: str) -> None:
    match command.id:
        case "cycle-think" if argument:
            try:
                screen.set_think(config.think(argument.replace(",", "")))
            except ValueError:
                raise CommandError(f"/think {argument}: give off, max or a number of tokens") from None
        case "budget":
            try:
                screen.set_budget(config.budget(argument))
            except ValueError as error:
                raise CommandError(f"/budget: {error}") from None
        case "method":
            screen.set_method("" if argument == "off" else argument)
        case "theme":
            names = [theme.name.removeprefix("mull-") for theme in OWN]
            if argument not in names:
                raise CommandError(f"/theme takes {' or '.join(names)}")
            screen.set_theme(f"mull-{argument}")
        case "overflow":
            chosen = next((name for name, _ in full_context.CHOICES if name == argument), None)
            if chosen is None:
                now = full_context.effect(screen.conversation.overflow)
                raise CommandError(f"/overflow takes {' or '.join(dict(full_context.CHOICES))}", now)
            screen.set_overflow(chosen)
        case "preview" if argument:
            screen.preview(argument)
        case "export":
            form, _, file = argument.partition(" ")
            name = file.removesuffix(" --force")
            screen.export(form, name.strip(), force=name != file)
        case _:
            await screen.run_action(command.action)


def _unknown(name: str) -> CommandError:
    known = [command.slash for command in COMMANDS if command.slash]
    near = difflib.get_close_matches(name, known, 1)
    return CommandError(
        f"there is no command /{name}", f"did you mean /{near[0]}?" if near else "type / to see them all"
    )
