"""What the app is given from outside, so that a test can give it something else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.config import Settings
from app.tui.starters import Starter
from engine.protocol import Engine, Think

if TYPE_CHECKING:
    from app.sessions.recorder import Recorder

Remember = Callable[[str, Think | str | bool], None]
"""Keeps a choice for the next time: the name of a field of config.Remembered, and its value."""


@dataclass(frozen=True)
class Services:
    """The engine, the place of conversations, the settings, and the time."""

    engine: Engine
    new_recorder: Callable[[], Recorder]
    remember: Remember
    settings: Settings = field(default_factory=Settings)
    resumed: Recorder | None = None
    """A conversation to go on with."""
    starters: tuple[Starter, ...] = ()
    meter: bool = True
    """Whether the meter is shown at first."""
    warnings: tuple[str, ...] = ()
    clock: Callable[[], float] = time.monotonic
    blink: bool = True
    """Whether the cursor blinks."""
