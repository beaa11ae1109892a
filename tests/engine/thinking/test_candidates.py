"""Methods of several candidates: which answer is kept and why, what the others cost, and who stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scripted_checkpoint
from answer_run import Run

from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.protocol import AnswerNow, Cancel, ModelSpec, Sampling, Started, Voted
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.tasks.answer_types import compare
from engine.thinking.methods import cascade
from engine.thinking.run import UsageError
from engine.thinking.step_scorer import is_sound
from engine.thinking.verifiers import sureness
from engine.thinking.voting import count, settled, until_settled

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>"))
A, B = TOKENIZER.encode("12")
HARD = "s = 1, u = 18, p = 13, g = p + 7, e = g + 7, c = e - 11, y = c + 2, h = y - 14. Find h."
"""On which samples of the bundled model differ."""


@pytest.fixture(scope="module")
def tiny() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(model="tiny"))
    yield backend
    backend.close()


@pytest.fixture
def unanimous(tmp_path: Path) -> Iterator[LocalBackend]:
    """Whatever it is asked, it thinks 1 and says 2."""
    script = {THINK: A, A: END, END: B, B: EOS}
    folder = scripted_checkpoint.write(tmp_path / "model", TINY, script, TOKENIZER.size)
    backend = open_backend(ModelSpec(model=str(folder)))
    yield backend
    backend.close()


def nothing_is_left(backend: LocalBackend) -> None:
    backend.runner.pool.check_integrity([])


async def test_the_answer_that_most_samples_give_is_kept(tiny: LocalBackend) -> None:
    done = await Run(HARD)(tiny, method="vote:12")
    answer = done.answer
    assert answer.decision is not None and answer.method == "vote:12"
    by_answer: dict[str, set[str]] = {}
    labels = compare([candidate.answer for candidate in answer.candidates]).labels
    said_by = dict(zip((candidate.id for candidate in answer.candidates), labels, strict=True))
    for candidate in answer.candidates:
        if said := said_by[candidate.id]:
            by_answer.setdefault(said, set()).add(candidate.id)
    assert len(by_answer) > 1, "a question on which samples agree proves nothing"
    assert {vote.answer: set(vote.candidates) for vote in answer.decision.votes} == by_answer
    most = max(map(len, by_answer.values()))
    [kept] = [candidate for candidate in answer.candidates if candidate.kept]
    assert kept.answer == answer.answer
    assert len(by_answer[said_by[kept.id]]) == most
    for vote in answer.decision.votes:
        scores = [one.score or 0.0 for one in answer.candidates if one.id in vote.candidates]
        assert vote.weight == pytest.approx(sum(scores)) and all(0 < score <= 1 for score in scores)
    nothing_is_left(tiny)


async def test_a_cascade_ends_where_it_is_sure_and_else_has_more_vote(
    tiny: LocalBackend, unanimous: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "SURE", 0.0)
    sure = (await Run()(unanimous, method="cascade:3")).answer
    assert sure.decision is not None and "answering at once" in sure.decision.rule
    assert len(sure.candidates) == 1 and not sure.thinking
    monkeypatch.setattr(cascade, "SURE", 1.1)
    done = await Run(HARD)(tiny, method="cascade:3")
    assert len(done.answer.candidates) == 5
    assert done.answer.decision is not None and "majority of 5" in done.answer.decision.rule
    assert done.answer.candidates[0].thinking_tokens == 0
    assert done.answer.candidates[1].thinking_tokens > 0
    nothing_is_left(tiny)


@pytest.mark.parametrize("method", ["vote:6", "best:6", "cascade"])
async def test_every_token_of_every_candidate_is_accounted_for(tiny: LocalBackend, method: str) -> None:
    done = await Run(HARD)(tiny, method=method)
    receipt, candidates = done.answer.receipt, done.answer.candidates
    assert receipt.tokens.forwarded() == done.forwarded
    [kept] = [candidate for candidate in candidates if candidate.kept]
    assert (receipt.tokens.thinking, receipt.tokens.answer) == (kept.thinking_tokens, kept.tokens)
    others = sum(one.tokens + one.thinking_tokens for one in candidates if not one.kept)
    assert 0 < others <= receipt.tokens.discarded
    flops = receipt.compute.flops
    assert flops.total.value == sum(step.flops for step in receipt.steps)
    parts = (flops.prefill, flops.thinking, flops.answer, flops.discarded)
    assert flops.total.value == sum(part.value or 0 for part in parts)
    losing = {one.id for one in candidates if not one.kept}
    assert flops.discarded.value == sum(step.flops for step in receipt.steps if step.candidate in losing)


async def test_what_candidates_share_is_computed_once(tiny: LocalBackend) -> None:
    receipt = (await Run(HARD)(tiny, method="vote:6")).answer.receipt
    prefills = [step for step in receipt.steps if step.primitive == "prefill"]
    assert [step.candidate for step in prefills] == [""]
    assert sum(step.tokens for step in prefills) + receipt.tokens.cached == receipt.tokens.prompt


async def test_a_vote_ends_when_it_is_clear(unanimous: LocalBackend) -> None:
    done = await Run()(unanimous, method="vote:16", sampling=Sampling(temperature=0.01))
    assert len(done.answer.candidates) == 4
    assert done.answer.decision is not None and done.answer.decision.margin == 1
    assert "clear after 4 of 16" in done.answer.decision.rule
    [started] = [event for event in done.events if isinstance(event, Started)]
    [voted] = [event for event in done.events if isinstance(event, Voted)]
    assert started.candidates == voted.wanted == 16 and voted.ended == 4
    nothing_is_left(unanimous)


async def test_thoughts_reopened_up_to_the_end_of_the_context_leave_an_answer(
    unanimous: LocalBackend,
) -> None:
    """At this temperature it forgets its script, and thinks and answers in turns until nothing is left."""
    done = await Run()(unanimous, method="best:6", sampling=Sampling(temperature=0.8))
    assert done.answer.answer and done.answer.receipt.tokens.forwarded() == done.forwarded
    nothing_is_left(unanimous)


async def test_the_same_seed_gives_the_same_candidates_whatever_runs_beside_them() -> None:
    exact = open_backend(ModelSpec(model="tiny", deterministic=True))
    try:
        alone = await Run(HARD)(exact, method="vote:8")
        runs = Run(HARD)(exact, method="vote:8"), Run("What is 48 + 267?")(exact, method="best:5")
        beside, _ = await asyncio.gather(*runs)
    finally:
        exact.close()
    texts = [
        [(one.id, one.answer, one.thinking_tokens, one.kept) for one in run.answer.candidates]
        for run in (alone, beside)
    ]
    votes = [run.answer.decision.votes if run.answer.decision else () for run in (alone, beside)]
    assert texts[0] == texts[1]
    assert [(vote.answer, vote.candidates) for vote in votes[0]] == [
        (vote.answer, vote.candidates) for vote in votes[1]
    ]


async def test_a_thought_with_a_wrong_step_has_no_say(
    tiny: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = (await Run(HARD)(tiny, method="best:8")).answer
    seen: list[str] = []

    def clears(thought: str) -> bool:
        """All but the thought that was kept, and those that are like it."""
        seen.append(thought)
        return thought.strip() != plain.thinking

    monkeypatch.setattr(sureness, "is_sound", clears)
    checked = (await Run(HARD)(tiny, method="best:8")).answer
    blamed = [thought.strip() == plain.thinking for thought in seen]
    assert [not one.score for one in checked.candidates] == blamed and True in blamed
    assert checked.thinking != plain.thinking
    assert checked.decision is not None
    assert f"{blamed.count(False)} of 8 thoughts" in checked.decision.rule
    for vote in checked.decision.votes:
        scores = [one.score or 0.0 for one in checked.candidates if one.id in vote.candidates]
        assert vote.weight == pytest.approx(sum(scores))
    weights = [vote.weight for vote in checked.decision.votes]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize(
    ("thought", "sound"),
    [
        ("12+7=19\n19-4=15", True),
        ("12+7=18\n18-4=14", False),
        ("12+7=18", False),
        ("12+7=18\nWait, let me check.\n12+7=19", True),
        ("12+7=18\nWait, let me check.\n12+7=17\n17-4=13", False),
        ("I think so.", True),
        ("", True),
    ],
)
def test_a_wrong_step_counts_where_it_is_not_taken_back_at_once(thought: str, sound: bool) -> None:
    assert is_sound(thought) == sound


async def test_answer_now_ends_every_candidate_and_begins_no_more(tiny: LocalBackend) -> None:
    run = Run(HARD)
    run.controls[6] = AnswerNow()
    done = await run(tiny, method="vote:32")
    assert len(done.answer.candidates) == 4 and done.answer.answer and done.answer.finish != "cancelled"
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    nothing_is_left(tiny)


async def test_a_cancelled_vote_keeps_what_got_furthest(tiny: LocalBackend) -> None:
    run = Run(HARD)
    run.controls[40] = Cancel()
    done = await run(tiny, method="vote:8")
    assert done.answer.finish == "cancelled"
    assert done.answer.thinking and sum(one.kept for one in done.answer.candidates) == 1
    assert done.answer.receipt.tokens.forwarded() == done.forwarded
    nothing_is_left(tiny)


async def test_a_budget_holds_for_each_candidate(tiny: LocalBackend) -> None:
    done = await Run(HARD)(tiny, think=16, method="best:5")
    assert max(one.thinking_tokens for one in done.answer.candidates) <= 16
    assert all(one.answer for one in done.answer.candidates)


async def test_without_thoughts_the_answers_alone_are_voted_on(tiny: LocalBackend) -> None:
    done = await Run(HARD)(tiny, think="off", method="vote:6")
    assert not done.text("thinking") and done.answer.answer
    assert done.answer.decision is not None and len(done.answer.candidates) >= 4


@pytest.mark.parametrize(
    ("method", "think", "message"),
    [
        ("vote:1", "max", "how many"),
        ("vote:", "max", "how many"),
        ("vote:65", "max", "how many"),
        ("best:-3", "max", "how many"),
        ("vote:٣", "max", "how many"),
        ("cot:3", "max", "takes no number"),
        ("vots:3", "max", "did you mean 'vote'"),
    ],
)
async def test_a_method_that_makes_no_sense_is_refused(
    unanimous: LocalBackend, method: str, think: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await Run()(unanimous, think=think, method=method)  # type: ignore[arg-type]


def test_a_vote_is_settled_where_a_coin_that_fell_so_is_surely_not_fair() -> None:
    """The rule of Adaptive-Consistency: the mass of Beta(leader + 1, second + 1) above one half."""
    grid = (np.arange(200_000) + 0.5) / 200_000
    for leader in range(12):
        for second in range(leader + 1):
            density = grid**leader * (1 - grid) ** second
            mass = density[grid > 0.5].sum() / density.sum()
            assert settled(leader, second) == (mass >= 0.95), (leader, second)
            more = until_settled(leader, second)
            assert settled(leader + more, second) and not (more and settled(leader + more - 1, second))


def test_votes_are_by_what_is_answered_not_by_how_it_is_written() -> None:
    said = [
        ("0", "1,200", 1.0),
        ("1", "The answer is 7.", 1.0),
        ("2", "1200", 1.0),
        ("3", r"\boxed{7.0}", 2.0),
    ]
    votes = count([*said, ("4", "", 1.0)])
    assert [(vote.answer, vote.candidates, vote.weight) for vote in votes] == [
        ("7", ("1", "3"), 3.0),
        ("1200", ("0", "2"), 2.0),
    ]
