"""Several candidates beside each other, a line each: how far each has come, and what it says. Pure text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app import figures
from app.sanitise import clean, clean_line
from app.search_tree import lines as tree_lines
from app.tui.bars import progress
from engine.protocol import Answer, Delta

MOST = 8
"""Lanes that are shown at once: those that began last."""
TAIL = 120
"""Characters of a thought's end that are kept to be shown."""
BAR = 12


@dataclass
class Lane:
    """One candidate."""

    tokens: int = 0
    thought: str = ""
    answer: str = ""


class Lanes:
    """What is known of each candidate while they run, by the order in which they began."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}

    @property
    def tokens(self) -> int:
        """Of all that is thought, put into mouths included."""
        return sum(lane.tokens for lane in self._lanes.values())

    def hear(self, delta: Delta) -> None:
        """More text of a candidate."""
        lane = self._lanes.setdefault(delta.candidate, Lane())
        if delta.phase == "thinking":
            lane.tokens += delta.tokens
            lane.thought = (lane.thought + delta.text)[-TAIL:]
        else:
            lane.answer += delta.text

    def text(self, width: int) -> str:
        """`3 · 42 tok  12+7=19`, and `→ 35` in the place of the thought of one that answers."""
        shown = list(self._lanes.items())[-MOST:]
        names = max((len(name) for name, _ in shown), default=0)
        lines = [_line(name.rjust(names), lane)[: max(width, 1)] for name, lane in shown]
        hidden = len(self._lanes) - len(shown)
        return "\n".join([f"… {hidden} before", *lines] if hidden else lines)


def standings(answer: Answer) -> str:
    """How candidates of a finished answer voted, and the tree where one was searched; empty for one alone."""
    return "\n".join([*_votes(answer), *tree_lines(answer)])


def _votes(answer: Answer) -> Sequence[str]:
    if answer.decision is None or len(answer.candidates) < 2:
        return []
    total = sum(vote.weight for vote in answer.decision.votes) or 1.0
    return [
        f"{progress(vote.weight / total, BAR).plain} {100 * vote.weight / total:3.0f} %  "
        f"{len(vote.candidates)} of {len(answer.candidates)}  {clean_line(vote.answer)[:60]}"
        for vote in answer.decision.votes
    ]


def _line(name: str, lane: Lane) -> str:
    said = " ".join(clean(lane.answer).split())
    thought = clean(lane.thought).strip("\n").rpartition("\n")[2]
    return f"{name} · {figures.count(lane.tokens)} tok  {f'→ {said}' if said else thought}"
