"""A search's tree reads from the prompt to the answers: who goes on from whom, what was kept and said."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from app import search_tree
from engine.protocol import Answer, Candidate, TreeNode


def test_a_tree_is_drawn_from_the_prompt_to_its_answers(make_answer: Callable[..., Answer]) -> None:
    candidates = (
        Candidate(id="4", answer="15", tokens=2, kept=True),
        Candidate(id="5", answer="\x1b[31mred", tokens=2, kept=False),
    )
    tree = (
        TreeNode(id="0", text="12+7=19\n", tokens=8, score=0.999, visits=7, kept=True),
        TreeNode(id="1", text="12+7=18\n", tokens=8, score=0.0099),
        TreeNode(id="2", parent="0", text="19-4=15\n", tokens=8, score=0.98, visits=4, kept=True),
        TreeNode(id="4", parent="2", text="", tokens=1, score=0.97, kept=True),
        TreeNode(id="5", parent="2", text="So\nit is " + "long " * 40, tokens=90, score=0.5),
    )
    answer = structs.replace(make_answer(candidates=candidates), tree=tree)
    lines = search_tree.lines(answer)
    assert lines[:4] == [
        "●  12+7=19  ×7  1.00",
        "●  19-4=15  ×4  0.98",
        "  ●  → 15  0.97",
        f"  ○  {('So it is ' + 'long ' * 40)[:60]}…  → red  0.50",
    ]
    assert lines[4] == "○  12+7=18  0.01"
    assert answer.thought("4") == "12+7=19\n19-4=15\n" and answer.thought("9") is None


def test_calls_stand_where_they_were_made(make_answer: Callable[..., Answer]) -> None:
    tree = (
        TreeNode(id="thought 1", text="12+7=", tokens=5, kept=True),
        TreeNode(id="call 1", parent="thought 1", kind="call", text="19", tokens=2, kept=True),
    )
    answer = structs.replace(make_answer(), tree=tree)
    assert search_tree.lines(answer) == ["●  12+7=", "●  call: 19"]
    assert search_tree.lines(make_answer()) == []
