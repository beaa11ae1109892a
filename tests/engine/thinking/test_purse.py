"""A budget for all that an answer spends: kept in every unit, used where it binds, moved while it runs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import scripted_checkpoint
from answer_run import Run

from engine.backend import Drawn, Lease
from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.meter.receipt import Clock
from engine.protocol import AnswerNow, Limit, ModelSpec, More, Sampling
from engine.protocol.budget import BudgetUnit, parse_limit, parse_limits
from engine.runtime.local import LocalBackend
from engine.setup import open_backend
from engine.thinking.purse import Purse
from engine.thinking.run import UsageError

TINY = locate("tiny")
TOKENIZER = HubTokenizer(TINY)
THINK, END, EOS, NEWLINE = (TOKENIZER.encode(text)[0] for text in ("<think>", "</think>", "<|im_end|>", "\n"))
A, B, C = TOKENIZER.encode("123")
STEP_S = 0.01
WATTS = 50.0
LAG_S = 0.1


@pytest.fixture(scope="module")
def tiny() -> Iterator[LocalBackend]:
    backend = open_backend(ModelSpec(model="tiny"))
    yield backend
    backend.close()


def scripted(folder: Path, script: dict[int, int]) -> LocalBackend:
    return open_backend(
        ModelSpec(model=str(scripted_checkpoint.write(folder, TINY, script, TOKENIZER.size)), draft="off")
    )


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[LocalBackend]:
    """Its thought never ends; it answers 23."""
    backend = scripted(tmp_path / "model", {THINK: A, A: A, NEWLINE: B, B: C, C: EOS})
    yield backend
    backend.close()


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[LocalBackend]:
    """It ends its thought at once, and at the end of each line; it answers 23."""
    backend = scripted(tmp_path / "model", {THINK: END, NEWLINE: END, END: B, B: C, C: EOS})
    yield backend
    backend.close()


@pytest.fixture
def clock(endless: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> LocalBackend:
    """Time stands still, but for each token of a forward that is no prompt's."""
    began = time.monotonic_ns()

    def now() -> int:
        return began + round(endless.runner.forwarded_tokens * STEP_S * 1e9)

    monkeypatch.setattr(time, "monotonic_ns", now)
    return endless


class LaggingCounter:
    """Counts what is drawn at constant power, and moves only every tenth of a second."""

    def __init__(self) -> None:
        self.began_ns = time.monotonic_ns()

    def read(self) -> Drawn:
        passed_ns = time.monotonic_ns() - self.began_ns
        seen_ns = passed_ns - passed_ns % round(LAG_S * 1e9)
        return Drawn(WATTS * seen_ns / 1e9, self.began_ns + seen_ns)


@pytest.mark.parametrize(
    "method",
    [
        "direct",
        "cot",
        "exit",
        "refine:2",
        "agent:4",
        "vote:4",
        "best:3",
        "deepconf:4",
        "beam:4",
        "mcts:4",
        "cascade",
    ],
)
@pytest.mark.parametrize("unit", ["tok", "FLOP"])
async def test_not_one_token_or_flop_more_than_the_budget(
    tiny: LocalBackend, method: str, unit: BudgetUnit
) -> None:
    draw = random.Random(f"{method} {unit}")
    for question in ("What is 12 + 7 - 4 + 15 - 9 * 2?", "How many?", "Is 7 more than 4?"):
        amount = draw.randint(60, 260) if unit == "tok" else draw.randint(200_000_000, 1_400_000_000)
        think = "off" if method == "direct" else "max"
        done = await Run(question)(tiny, think=think, method=method, budget=(Limit(unit, amount),))
        receipt = done.answer.receipt
        [state] = receipt.budget
        spent = done.forwarded if unit == "tok" else receipt.compute.flops.total.value
        assert state.spent.value == spent is not None
        assert spent <= amount
        assert done.answer.answer


@pytest.mark.parametrize("method", ["cot", "vote:3", "best:2"])
@pytest.mark.parametrize("unit", ["tok", "FLOP"])
async def test_what_there_is_to_spend_is_spent(endless: LocalBackend, method: str, unit: BudgetUnit) -> None:
    amount = 500 if unit == "tok" else 2_600_000_000
    alike = Sampling(temperature=0.01)
    done = await Run()(endless, method=method, sampling=alike, budget=(Limit(unit, amount),))
    [state] = done.answer.receipt.budget
    assert state.spent.value is not None
    assert 0.85 * amount <= state.spent.value <= amount
    assert done.answer.finish == "budget"
    assert done.answer.answer == "23"


async def test_a_vote_that_the_budget_ended_is_not_called_clear(endless: LocalBackend) -> None:
    done = await Run()(endless, method="vote:8", budget=(Limit("tok", 160),))
    assert done.answer.decision is not None
    assert "budget" in done.answer.decision.rule and "clear" not in done.answer.decision.rule


async def test_a_node_that_is_given_a_part_again_goes_on_with_what_is_left(endless: LocalBackend) -> None:
    now = time.monotonic_ns()
    purse = Purse((Limit("tok", 100),), endless, Clock(now, now, 0.0))
    node = await endless.prefill([A, B, C], Lease(1))
    first = purse.open(node).left()
    await endless.force(node, "thinking", [A] * 10)
    assert first == 97 and purse.open(node).left() == 87
    await endless.cancel(node)


async def test_what_the_cache_holds_is_free(endless: LocalBackend) -> None:
    long = "How many? " * 40
    first = await Run(long)(endless, think=16)
    cost = first.answer.receipt.tokens.prefilled
    again = await Run(long)(endless, budget=(Limit("tok", cost // 2),))
    assert again.answer.receipt.tokens.cached > cost // 2
    assert again.forwarded <= cost // 2
    with pytest.raises(UsageError, match=r"the prompt alone takes .* tokens of the budget of"):
        await Run("Quite another question. " * 40)(endless, budget=(Limit("tok", cost // 2),))


async def test_the_tightest_limit_binds(endless: LocalBackend) -> None:
    loose, tight = Limit("FLOP", 1e15), Limit("tok", 120)
    done = await Run()(endless, budget=(loose, tight))
    by_unit = {state.limit.unit: state.spent.value or 0 for state in done.answer.receipt.budget}
    assert by_unit["tok"] <= 120 and by_unit["FLOP"] < 1e12


async def test_seconds_end_a_thought_and_leave_time_for_the_answer(clock: LocalBackend) -> None:
    done = await Run()(clock, budget=(Limit("s", 2.0),))
    [state] = done.answer.receipt.budget
    assert state.spent.value is not None
    assert 0.85 * 2.0 <= state.spent.value <= 2.0 * 1.02 + STEP_S
    assert (done.answer.finish, done.answer.answer) == ("budget", "23")


async def test_joules_are_kept_by_a_counter_that_lags(clock: LocalBackend) -> None:
    clock.energy = LaggingCounter()
    done = await Run()(clock, budget=(Limit("J", 100.0),))
    [state] = done.answer.receipt.budget
    assert state.spent.method == "measured" and state.spent.value is not None
    assert 0.8 * 100.0 <= state.spent.value <= 100.0 * 1.02 + WATTS * STEP_S
    assert done.answer.answer == "23"


async def test_joules_without_a_counter_are_kept_by_an_estimate_that_says_so(clock: LocalBackend) -> None:
    done = await Run()(clock, budget=(Limit("J", 15.0),))
    [state] = done.answer.receipt.budget
    assert state.spent.method == "modelled" and state.spent.low is not None
    assert done.answer.finish == "budget"


async def test_a_budget_too_small_for_a_thought_answers_without_one_and_says_so(
    endless: LocalBackend,
) -> None:
    await Run()(endless, think=8)
    done = await Run()(endless, budget=(Limit("tok", 30),))  # its prompt is in the cache
    assert done.answer.thinking
    done = await Run()(endless, budget=(Limit("tok", 9),))
    assert not done.answer.thinking and done.answer.answer
    assert any("the budget leaves" in note for note in done.answer.receipt.state.notices)


async def test_more_raises_a_budget_that_could_not_pay(endless: LocalBackend) -> None:
    run = Run()
    run.controls[1] = More(tokens=100)
    done = await run(endless, think=1500, budget=(Limit("tok", 900),))
    [state] = done.answer.receipt.budget
    assert state.raised and state.limit.amount == 1000
    assert 900 < done.forwarded <= 1000


async def test_now_means_now_within_a_budget_too(endless: LocalBackend) -> None:
    run = Run()
    run.controls[3] = AnswerNow()
    done = await run(endless, budget=(Limit("tok", 1000),))
    assert done.answer.answer == "23"
    assert done.forwarded < 500


async def test_a_thought_goes_on_to_its_minimum(hasty: LocalBackend) -> None:
    short = (await Run()(hasty)).answer
    assert short.receipt.tokens.thinking + short.receipt.tokens.forced < 8
    done = await Run()(hasty, least_thinking=40)
    tokens = done.answer.receipt.tokens
    assert 40 <= tokens.thinking + tokens.forced < 60
    assert done.answer.answer == "23" and done.answer.finish == "stop"
    assert tokens.forwarded() == done.forwarded


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"least_thinking": -1}, "negative"),
        ({"least_thinking": 50, "think": 20}, "more than the 20 that are allowed"),
        ({"least_thinking": 50, "think": "off"}, "more than the off that are allowed"),
        ({"least_thinking": 500, "budget": (Limit("tok", 200),)}, "do not fit into a budget of 200 tokens"),
        ({"budget": (Limit("tok", 3),)}, "the prompt alone takes"),
        ({"budget": (Limit("FLOP", 1000),)}, "the prompt alone takes"),
    ],
)
async def test_what_cannot_be_kept_is_refused_in_one_line(
    endless: LocalBackend, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint) as refusal:
        await Run()(endless, **options)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
    endless.runner.pool.check_integrity([])


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("2000tok", Limit("tok", 2000)),
        ("2 ktok", Limit("tok", 2000)),
        ("500ms", Limit("s", 0.5)),
        ("2min", Limit("s", 120)),
        ("2kJ", Limit("J", 2000)),
        ("1Wh", Limit("J", 3600)),
        ("5TFLOP", Limit("FLOP", 5e12)),
    ],
)
def test_a_budget_is_read_with_its_unit(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    "text", ["", "0tok", "-3s", "5", "5 parsecs", "0.5tok", "9e99J", "tok", "5mtok", "nan s", "1e30FLOP"]
)
def test_what_is_no_budget_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="budget") as refusal:
        parse_limit(text)
    assert "\n" not in str(refusal.value)


def test_of_two_limits_in_a_unit_the_tighter_counts() -> None:
    assert parse_limits(["30s,100tok", "200tok", "1min"]) == (Limit("s", 30), Limit("tok", 100))
