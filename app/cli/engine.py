"""What the commands that reach an engine share: opening it, and turning its failures into exit statuses."""

from __future__ import annotations

from app import locations
from app.config import Settings
from app.errors import CommandError
from engine.client import EngineGone, Places, ResidentEngine, resident
from engine.protocol import Failed

STATUS = {"usage": 2, "fit": 3, "overflow": 3, "model": 1, "engine": 1, "cancelled": 1}


def places(settings: Settings | None = None) -> Places:
    """Where this user's engine is reached, and what it may use of the user's."""
    return Places(
        locations.engine_socket(),
        locations.engine_log(),
        locations.profiles_directory(),
        locations.prompts_directory(),
        settings.prompt_store if settings else None,
        locations.quantized_directory(),
        settings.quantized_store if settings else None,
        locations.calibrations_directory(),
    )


def open_engine(settings: Settings | None = None) -> ResidentEngine:
    """The user's resident engine; nothing is started yet. Raises CommandError.

    An engine that is then started stays, and keeps prompts and weights on disk, as the settings say.
    """
    try:
        return resident(places(settings), settings.keep_alive if settings else None)
    except EngineGone as error:
        raise CommandError(str(error)) from error


def failure(event: Failed) -> CommandError:
    """An engine's failure as the error that a person reads."""
    return CommandError(event.message, event.hint, status=STATUS[event.code])
