"""The tree of a search as lines of text: each step after the one it goes on from, the kept ones marked."""

from __future__ import annotations

from collections.abc import Iterator

from app.sanitise import clean_line
from engine.protocol import Answer, TreeNode

LONGEST = 60
"""Characters of a step that are shown."""


def lines(answer: Answer) -> list[str]:
    """A line for each step, further in where several go on from the same; none where nothing was searched.

    `● 12+7=19  ×8  1.00`: the step, how many samples or roll-outs took it, and its score; at the end of a
    thought what it answered.
    """
    below: dict[str, list[TreeNode]] = {}
    for node in answer.tree:
        below.setdefault(node.parent, []).append(node)
    said = {candidate.id: candidate.answer for candidate in answer.candidates}
    return [f"{'  ' * depth}{_line(node, said.get(node.id))}" for node, depth in _walk(below)]


def _walk(below: dict[str, list[TreeNode]]) -> Iterator[tuple[TreeNode, int]]:
    """Depth first, in the order in which steps were taken."""
    waiting = [(node, 0) for node in reversed(below.get("", []))]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        after = below.get(node.id, [])
        waiting += [(child, depth + (len(after) > 1)) for child in reversed(after)]


def _line(node: TreeNode, answer: str | None) -> str:
    text = clean_line(" ".join(node.text.split()))
    parts = [
        "●" if node.kept else "○",
        ("call: " if node.kind == "call" else "") + (text if len(text) <= LONGEST else f"{text[:LONGEST]}…"),
        f"→ {clean_line(answer)[:LONGEST]}" if answer else "",
        f"×{node.visits}" if node.visits > 1 else "",
        "" if node.score is None else f"{node.score:.2f}",
    ]
    return "  ".join(part for part in parts if part)
