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
    budget = plan(think, room, opening=1, phrase=phrase)  # type: ignore[arg-type]
    if budget.thinks:
        assert budget.lease.limit >= 2
        assert budget.lease.limit + phrase == budget.limit
        assert budget.limit + reserve(room) <= room
        assert think == "max" or budget.limit <= think
    else:
        assert budget.lease.limit == 0
        assert budget.note is not None


@given(rooms, phrases)
def test_off_is_off_without_a_word(room: int, phrase: int) -> None:
    budget = plan("off", room, 1, phrase)
    assert not budget.thinks
    assert budget.note is None


def test_a_budget_too_small_for_its_phrase_switches_thinking_off_and_says_so() -> None:
    budget = plan(5, 1000, 1, 4)
    assert not budget.thinks
    assert budget.note is not None and "5 tokens" in budget.note
    assert plan(6, 1000, 1, 4).thinks


def test_the_answer_keeps_its_reserve_however_much_thinking_is_allowed() -> None:
    assert plan("max", 10_000, 1, 4).limit == 9_000
    assert plan("max", 300, 1, 4).limit == 300 - RESERVE_TOKENS


def test_more_and_less_move_the_lease_within_the_room() -> None:
    budget = plan(100, 1000, 1, 4)
    budget.more(50)
    assert budget.limit == 150 and budget.lease.limit == 146
    budget.more(10_000)
    assert budget.limit == 900
    budget.more(-10_000)
    assert budget.limit == 0 and budget.exhausted


@given(
    st.integers(10, 500),
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=20),
)
def test_thoughts_opened_again_and_again_stay_inside_one_budget(
    limit: int, thoughts: list[tuple[int, bool]]
) -> None:
    budget = plan(limit, 2000, opening=1, phrase=4)
    context_left = 2000
    budget.charge(1)
    for wanted, closed_by_itself in thoughts:
        if not budget.may_reopen(context_left):
            break
        sampled = min(wanted, budget.lease.limit - budget.lease.used)
        budget.lease.used += sampled
        context_left -= sampled
        if not closed_by_itself:
            budget.charge(4)
            context_left -= 4
    assert budget.lease.used + budget.forced <= limit


def test_a_thought_opened_late_leaves_the_answer_its_reserve() -> None:
    budget = plan("max", 1000, 0, 4)
    assert budget.may_reopen(200)
    assert budget.lease.limit + budget.phrase == 200 - RESERVE_TOKENS
    assert not budget.may_reopen(6)
