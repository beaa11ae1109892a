"""The prompts that the empty screen offers, from the installed assets."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Starter:
    """A prompt that the bundled model can answer, and what it shows."""

    title: str
    prompt: str
    hint: str = ""


def starters(limit: int = 3) -> tuple[Starter, ...]:
    """The first prompts of `assets/prompts.toml`."""
    text = resources.files("assets").joinpath("prompts.toml").read_text("utf-8")
    return tuple(Starter(**entry) for entry in tomllib.loads(text)["prompts"][:limit])
