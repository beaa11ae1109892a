"""The terminal app: what bare `mull` runs. Never imports torch; paints before it touches an engine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from textual import events
from textual.app import App, SystemCommand
from textual.notifications import Notify
from textual.screen import Screen
from textual.widget import Widget

from app.tui.commands import COMMANDS
from app.tui.full_context import CHOICES
from app.tui.screens.chat import ChatScreen
from app.tui.services import Services
from app.tui.themes import DEFAULT, OWN, semantic_defaults

if TYPE_CHECKING:
    from app.sessions.recorder import Recorder

UNLISTED = ("interrupt", "leave", "export", "theme", "overflow")
"""Commands that the palette has in another form, or that mean nothing there."""


class MullApp(App[None]):
    """Themes, the palette and the way out; everything else is the chat screen's."""

    TITLE = "mull"
    DEFAULT_MODE = "chat"
    NOTIFICATION_TIMEOUT = 2.5
    CSS = """
    ToastRack { dock: top; align: right top; margin: 1 0 0 0; }
    Toast { width: auto; max-width: 60%; margin: 0 1 0 0; padding: 0 1; }
    """  # below the first line: at the end of the screen they would cover what is being written

    def __init__(self, services: Services) -> None:
        super().__init__()
        self._services = services
        self.chat = ChatScreen(services)
        self.add_mode("chat", lambda: self.chat)
        for theme in OWN:
            self.register_theme(theme)
        wanted = services.settings.theme or DEFAULT
        known = wanted if wanted in self.available_themes else f"mull-{wanted}"
        self.theme = known if known in self.available_themes else DEFAULT

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return semantic_defaults(self.current_theme)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for command in COMMANDS:
            if command.where == "anywhere" and command.id not in UNLISTED:
                run = partial(self.chat.run_action, command.action)
                yield SystemCommand(command.title, command.help, run)
        for choice, does in CHOICES:
            yield SystemCommand(f"Full context: {choice}", does, partial(self.chat.set_overflow, choice))
        for theme in OWN:
            name = theme.name.removeprefix("mull-")
            yield SystemCommand(
                f"Theme: {name}", "choose the colors", partial(self.chat.set_theme, theme.name)
            )

    async def on_event(self, event: events.Event) -> None:
        if not event.is_forwarded:
            self.chat.redirect(event)
        await super().on_event(event)

    def on_notify(self, event: Notify) -> None:
        """One notification of a kind: a new one takes the place of the last."""
        for shown in list(self._notifications):
            if shown.severity == event.notification.severity:
                self._unnotify(shown, refresh=False)
        for toast in self.screen.query(f"Toast.-{event.notification.severity}"):
            if isinstance(toast.parent, Widget):
                toast.parent.remove()  # with the line that it stands on

    async def action_quit(self) -> None:
        """Stop what runs, keep it, and leave."""
        await self._leave(0)

    async def _leave(self, status: int) -> None:
        await self.chat.end_answer()
        self.exit(return_code=status)

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.call_later, self._leave, 128 + number)

    async def on_unmount(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
        await self.chat.conversation.close()


def run(flags: Mapping[str, object] | None = None, resume: str | None = None) -> int:
    """Run the app with the user's settings, sessions and resident engine; returns the exit status.

    `flags` are settings given on the command line; `resume` means a session as `Store.resolve` takes it.
    Raises CommandError.
    """
    from app import config
    from app.cli.engine import open_engine
    from app.tui.hangup import leave_when_terminal_closes
    from app.tui.starters import starters

    configuration = config.load(flags)
    settings, origins = configuration.settings, configuration.origins
    recalled = config.recalled()
    kept = {
        key: value
        for key in ("think", "budget", "method", "theme", "show_thinking")
        if origins[key] == "default" and (value := getattr(recalled, key)) is not None
    }
    services = Services(
        engine=open_engine(settings),
        new_recorder=_new_recorder,
        remember=config.remember,
        settings=msgspec.structs.replace(settings, **kept),
        resumed=None if resume is None else _resumed(resume),
        starters=starters(),
        meter=recalled.meter is not False,
        warnings=configuration.warnings,
    )
    leave_when_terminal_closes()
    app = MullApp(services)
    app.run()
    return app.return_code or 0


def _new_recorder() -> Recorder:
    from app.sessions.recorder import Recorder  # with the first prompt: nothing is kept before it

    return Recorder.create()


def _resumed(session: str) -> Recorder:
    from app.sessions.recorder import Recorder

    return Recorder.resume(session)
