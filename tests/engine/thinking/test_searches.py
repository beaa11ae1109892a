"""Searches over steps: what is gone on with, what it costs, what is told of the tree, and who stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.backend import Watch
from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import (
    Answer,
    AnswerNow,
    Cancel,
    Grew,
    Limit,
    ModelSpec,
    Sampling,
    Started,
    TreeNode,
)
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking import tree
from engine.thinking.run import UsageError
from engine.thinking.step_scorer import is_sound, score

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS, NEWLINE = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>", "\n"))
A, B = TOKENIZER.encode("12")
HARD = "s = 1, u = 18, p = 13, g = p + 7, e = g + 7, c = e - 11, y = c + 2, h = y - 14. Find h."
"""On which samples of the bundled model differ."""


@pytest.fixture(scope="module")
def tiny() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(model="tiny"))
    yield backend
    backend.close()


@pytest.fixture
def certain(tmp_path: Path) -> Iterator[LocalBackend]:
    """Whatever it is asked, it thinks a line that says 1, and says 2."""
    script = {THINK: A, A: NEWLINE, NEWLINE: END, END: B, B: EOS}
    folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size)
    backend = open_backend(ModelSpec(model=str(folder)))
    yield backend
    backend.close()


def nothing_is_left(backend: LocalBackend) -> None:
    backend.runner.pool.check_integrity([])


def children(answer: Answer) -> dict[str, list[TreeNode]]:
    found: dict[str, list[TreeNode]] = {}
    for node in answer.tree:
        found.setdefault(node.parent, []).append(node)
    return found


@pytest.mark.parametrize("method", ["beam:8", "mcts:8"])
async def test_every_token_of_every_step_is_accounted_for(tiny: LocalBackend, method: str) -> None:
    done = await Run(HARD)(tiny, method=method)
    receipt, candidates = done.answer.receipt, done.answer.candidates
    assert receipt.tokens.forwarded() == done.forwarded
    [kept] = [candidate for candidate in candidates if candidate.kept]
    assert (receipt.tokens.thinking, receipt.tokens.answer) == (kept.thinking_tokens, kept.tokens)
    assert receipt.tokens.discarded > 0
    flops = receipt.compute.flops
    parts = (flops.prefill, flops.thinking, flops.answer, flops.discarded)
    assert flops.total.value == sum(part.value or 0 for part in parts)
    shown = {node.id for node in done.answer.tree if node.kept}
    others = sum(step.flops for step in receipt.steps if step.candidate and step.candidate not in shown)
    assert flops.discarded.value == others
    nothing_is_left(tiny)


@pytest.mark.parametrize("method", ["beam:8", "mcts:8"])
async def test_the_tree_is_told_as_it_grows_and_leads_to_the_answer(tiny: LocalBackend, method: str) -> None:
    done = await Run(HARD)(tiny, method=method)
    answer = done.answer
    told: dict[str, TreeNode] = {}
    for event in done.events:
        if isinstance(event, Grew):
            assert not event.node.parent or event.node.parent in told, "a step is told after its parent"
            told[event.node.id] = event.node
    assert [node.id for node in answer.tree] == list(told)
    assert all(told[node.id].score == node.score for node in answer.tree)
    [kept] = [candidate for candidate in answer.candidates if candidate.kept]
    path, at = set[str](), kept.id
    while at:
        path.add(at)
        at = told[at].parent
    assert {node.id for node in answer.tree if node.kept} == path
    assert (answer.thought(kept.id) or "").strip() == answer.thinking
    assert len(path) > 1 and len(answer.tree) > len(path)
    assert answer.decision is not None
    assert {name for vote in answer.decision.votes for name in vote.candidates} <= set(told)


async def test_a_beam_goes_on_from_the_steps_with_the_highest_scores(
    tiny: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def likes_sevens(thought: str, watched: object) -> float:
        return (1 + thought.count("7")) / (10 + len(thought))

    monkeypatch.setattr(tree, "score", likes_sevens)
    answer = (await Run(HARD)(tiny, method="beam:8")).answer
    below = children(answer)
    ended = {candidate.id for candidate in answer.candidates}
    level, compared = below[""], 0
    while level:
        went_on = [node for node in level if node.id in below]
        given_up = [node for node in level if node.id not in below and node.id not in ended]
        assert len(went_on) <= 2, "a quarter of the beam is kept"
        sound = [node for node in given_up if is_sound(answer.thought(node.id) or "")]
        for node in went_on:
            assert all((node.score or 0) >= (other.score or 0) for other in sound)
            compared += len(given_up)
        level = [child for node in went_on for child in below[node.id]]
    assert compared, "a search in which nothing was given up proves nothing"


@pytest.mark.parametrize("method", ["beam:8", "mcts:8"])
async def test_steps_that_are_alike_are_one(certain: LocalBackend, method: str) -> None:
    done = await Run()(certain, method=method, sampling=Sampling(temperature=0.01))
    below = children(done.answer)
    assert [(node.text, node.visits) for node in below[""]] == [("1\n", 8)]
    assert len({node.text for node in done.answer.tree}) == 2
    assert done.answer.answer == "2" and done.answer.thinking == "1"
    assert done.answer.decision is not None and done.answer.decision.margin == 1
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    [started] = [event for event in done.events if isinstance(event, Started)]
    assert started.candidates == 8
    nothing_is_left(certain)


async def test_roll_outs_are_counted_at_each_step_that_they_go_through(tiny: LocalBackend) -> None:
    answer = (await Run(HARD)(tiny, method="mcts:12")).answer
    below = children(answer)
    ended = {candidate.id for candidate in answer.candidates}
    steps = [node for node in below[""] if node.id not in ended or node.id in below]
    assert sum(node.visits for node in below[""] if node in steps) <= 12
    for node in answer.tree:
        inside = [child for child in below.get(node.id, ()) if child.id in below]
        assert sum(child.visits for child in inside) <= node.visits
    assert answer.decision is not None and "12 roll-outs" in answer.decision.rule


@pytest.mark.parametrize("method", ["beam:8", "mcts:8"])
async def test_the_same_seed_gives_the_same_tree_whatever_runs_beside_it(method: str) -> None:
    exact = open_backend(ModelSpec(model="tiny", deterministic=True))
    try:
        alone = await Run(HARD)(exact, method=method)
        runs = Run(HARD)(exact, method=method), Run("What is 48 + 267?")(exact, method="best:5")
        beside, _ = await asyncio.gather(*runs)
    finally:
        exact.close()
    assert [(node.id, node.text, node.visits) for node in beside.answer.tree] == [
        (node.id, node.text, node.visits) for node in alone.answer.tree
    ]
    assert beside.answer.answer == alone.answer.answer


@pytest.mark.parametrize("method", ["beam:8", "mcts:16"])
async def test_answer_now_ends_a_search(tiny: LocalBackend, method: str) -> None:
    run = Run(HARD)
    run.controls[12] = AnswerNow()
    done = await run(tiny, method=method)
    assert done.answer.answer and done.answer.finish != "cancelled"
    whole = await Run(HARD)(tiny, method=method)
    assert done.forwarded < whole.forwarded
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    nothing_is_left(tiny)


@pytest.mark.parametrize("at", [3, 30])
@pytest.mark.parametrize("method", ["beam:8", "mcts:16"])
async def test_a_cancelled_search_keeps_what_got_furthest(tiny: LocalBackend, method: str, at: int) -> None:
    run = Run(HARD)
    run.controls[at] = Cancel()
    done = await run(tiny, method=method)
    assert done.answer.finish == "cancelled"
    assert sum(one.kept for one in done.answer.candidates) == 1
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    nothing_is_left(tiny)


@pytest.mark.parametrize("method", ["beam:6", "mcts:6"])
async def test_a_cap_on_thinking_holds_for_each_thought_of_a_search(tiny: LocalBackend, method: str) -> None:
    done = await Run(HARD)(tiny, think=20, method=method)
    assert max(one.thinking_tokens for one in done.answer.candidates) <= 20
    assert all(one.answer for one in done.answer.candidates)


@pytest.mark.parametrize("method", ["beam:8", "mcts:8"])
@pytest.mark.parametrize("tokens", [60, 150, 400])
async def test_a_budget_for_the_whole_answer_holds_in_a_search(
    tiny: LocalBackend, method: str, tokens: int
) -> None:
    done = await Run(HARD)(tiny, method=method, budget=(Limit("tok", tokens),))
    assert done.answer.answer
    assert done.answer.receipt.tokens.forwarded() == done.forwarded <= tokens
    nothing_is_left(tiny)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("beam:0", {}, "how many"),
        ("beam:1", {}, "how many"),
        ("mcts:65", {}, "how many"),
        ("mcts:-4", {}, "how many"),
        ("beam:8", {"think": "off"}, "thinking is off"),
        ("mcts:8", {"think": 0}, "thinking is off"),
        ("beam:8", {"sampling": Sampling(temperature=0)}, "temperature 0"),
        ("beams:8", {}, "did you mean 'beam'"),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused(
    certain: LocalBackend, method: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await Run()(certain, method=method, **options)  # type: ignore[arg-type]


async def test_a_budget_too_small_to_think_in_is_answered_directly(tiny: LocalBackend) -> None:
    done = await Run(HARD)(tiny, think=2, method="beam:8")
    assert done.answer.answer and not done.answer.thinking and not done.answer.tree


@pytest.mark.parametrize("entropy", [0.0, 0.5, 3.0])
def test_any_thought_without_a_wrong_step_scores_above_one_with_a_wrong_step(entropy: float) -> None:
    watched = [Watch(top=(-0.1,) * 20, entropy=entropy, certainty=1.0)]
    sure = [Watch(top=(-0.1,) * 20, entropy=0.0, certainty=1.0)]
    assert score("12+7=19\n19-4=15\n", watched) > score("12+7=18\n18-4=14\n", sure)
    assert score("12+7=18\nWait, let me check.\n", sure) == score("12+7=19\n", sure) == 1.0
