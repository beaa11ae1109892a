"""What a verifier says of candidates, and why it may have nothing to say. Knows no verifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Judgement:
    """How much each candidate's vote weighs, by its name; who is not named has no say. `rule`: by what."""

    weights: Mapping[str, float]
    rule: str


class CannotJudge(Exception):
    """A verifier has nothing to go by; its message says why, in half a sentence."""
