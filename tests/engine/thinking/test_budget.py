"""A thinking budget holds its phrase, leaves the answer its reserve, and moves while it runs."""

from hypothesis import given
from hypothesis import strategies as st

from engine.thinking.budget import RESERVE_TOKENS, plan, reserve

rooms = st.integers(2, 50_000)
phrases = st.integers(1, 40)


@given(st.one_of(st.just("max"), st.integers(1, 10**6)), rooms, phrases)
def test_thought_phrase_and_reserve_lie_inside_what_was_asked_and_what_there_is(
    think: int | str, room: int, phrase: int
) -> None:
    budget = plan(think, room, phrase)  # type: ignore[arg-type]
    if budget.thinks:
        assert budget.lease.limit >= 1
        assert budget.lease.limit + phrase == budget.limit
        assert budget.limit + reserve(room) <= room
        assert think == "max" or budget.limit <= think
    else:
        assert budget.lease.limit == 0
        assert budget.note is not None


@given(rooms, phrases)
def test_off_is_off_without_a_word(room: int, phrase: int) -> None:
    budget = plan("off", room, phrase)
    assert not budget.thinks
    assert budget.note is None


def test_a_budget_too_small_for_its_phrase_switches_thinking_off_and_says_so() -> None:
    budget = plan(4, 1000, 4)
    assert not budget.thinks
    assert budget.note is not None and "4 tokens" in budget.note
    assert plan(5, 1000, 4).thinks


def test_the_answer_keeps_its_reserve_however_much_thinking_is_allowed() -> None:
    assert plan("max", 10_000, 4).limit == 9_000
    assert plan("max", 300, 4).limit == 300 - RESERVE_TOKENS


def test_more_and_less_move_the_lease_within_the_room() -> None:
    budget = plan(100, 1000, 4)
    budget.more(50)
    assert budget.limit == 150 and budget.lease.limit == 146
    budget.more(10_000)
    assert budget.limit == 900
    budget.more(-10_000)
    assert budget.limit == 0 and budget.exhausted
