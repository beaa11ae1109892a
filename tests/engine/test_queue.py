"""Which job runs when: several at once, clients and models in turn, and nobody for ever last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from engine.desk import AT_ONCE, BULK, TURN, Desk


@dataclass(eq=False)
class Asked:
    """A job as the desk sees it."""

    client: str
    group: str = "A"
    brief: bool = False
    bulk: bool = False


def taken(desk: Desk[Asked]) -> list[Asked]:
    """What begins now."""
    begun = []
    while (job := desk.take()) is not None:
        begun.append(job)
    return begun


def accept(desk: Desk[Asked], *jobs: Asked) -> list[Asked]:
    """What begins of these and of those before, each accepted when the one before has begun or waits."""
    begun = []
    for job in jobs:
        desk.accept(job)
        begun += taken(desk)
    return begun


def run(desk: Desk[Asked]) -> list[list[Asked]]:
    """End the running jobs one by one, the oldest first; what begins after each, until all have ended."""
    begun = []
    while desk.running:
        desk.finish(desk.running[0])
        begun.append(taken(desk))
    return begun


def flat(begun: Sequence[Sequence[Asked]]) -> list[Asked]:
    return [job for jobs in begun for job in jobs]


def test_jobs_of_one_group_run_together_up_to_the_limit() -> None:
    desk: Desk[Asked] = Desk()
    jobs = [Asked("x") for _ in range(AT_ONCE + 2)]
    assert accept(desk, *jobs) == jobs[:AT_ONCE]
    desk.finish(jobs[3])
    assert taken(desk) == [jobs[AT_ONCE]] and desk.waiting == [jobs[-1]]


def test_what_ends_at_once_takes_no_place() -> None:
    desk: Desk[Asked] = Desk(at_once=1)
    answer, load, other = Asked("x"), Asked("y", brief=True), Asked("y", "B", brief=True)
    assert accept(desk, answer, load, other) == [answer, load]
    assert [ahead for _, ahead in desk.places()] == [1]


def test_clients_take_turns_however_many_jobs_one_of_them_has() -> None:
    desk: Desk[Asked] = Desk(at_once=1)
    many, few = [Asked("x") for _ in range(5)], [Asked("y") for _ in range(2)]
    late = Asked("z")
    accept(desk, *many, *few)
    desk.finish(many[0])
    assert taken(desk) == [many[1]]
    accept(desk, late)
    assert flat(run(desk)) == [few[0], many[2], late, few[1], *many[3:]]


def test_clients_that_come_for_one_job_each_do_not_pass_one_that_waits() -> None:
    desk: Desk[Asked] = Desk(at_once=1)
    first, waits = Asked("x"), Asked("x")
    accept(desk, first, waits, Asked("p"), Asked("q"))
    assert flat(run(desk))[0] is waits


def test_another_group_waits_for_the_running_one_and_is_not_overtaken_by_it() -> None:
    desk: Desk[Asked] = Desk()
    first, second, other, late = Asked("x"), Asked("y"), Asked("z", "B"), Asked("x")
    assert accept(desk, first, second, other, late) == [first, second]
    desk.finish(first)
    assert taken(desk) == []
    desk.finish(second)
    assert taken(desk) == [other]
    desk.finish(other)
    assert taken(desk) == [late]


def test_groups_asked_for_by_turns_change_once_and_not_each_time() -> None:
    desk: Desk[Asked] = Desk()
    jobs = [Asked(group, group) for _ in range(3) for group in ("A", "B")]
    assert accept(desk, *jobs) == jobs[:1]
    assert "".join(job.group for job in flat(run(desk))) == "BBBAA"


def test_a_group_with_much_to_do_lets_another_between() -> None:
    many, other, late = [Asked("x") for _ in range(AT_ONCE + TURN + 3)], Asked("y", "B"), Asked("z")
    for at_once in (AT_ONCE, 1):
        desk: Desk[Asked] = Desk(at_once)
        accept(desk, *many[:-1], other, late, many[-1])
        order = flat(run(desk))
        before = order.index(other)
        assert before == TURN
        # what was put off comes first, and each client's jobs keep their order
        assert order[before + 2] is late
        assert [job for job in order if job.client == "x"] == many[at_once:]


def test_a_job_that_is_withdrawn_does_not_begin_and_holds_up_nobody() -> None:
    desk: Desk[Asked] = Desk()
    first, other, late = Asked("x"), Asked("y", "B"), Asked("z")
    accept(desk, first, other, late)
    assert desk.withdraw(other) and not desk.withdraw(other) and not desk.withdraw(first)
    assert taken(desk) == [late]
    desk.finish(first)
    desk.finish(late)
    assert desk.idle


def test_a_group_that_made_room_for_another_goes_on_where_that_is_withdrawn() -> None:
    desk: Desk[Asked] = Desk(at_once=1)
    many, other = [Asked("x") for _ in range(TURN + 2)], Asked("y", "B")
    accept(desk, *many, other)
    for job in many[:TURN]:
        desk.finish(job)
        taken(desk)
    desk.withdraw(other)
    desk.finish(many[TURN])
    assert taken(desk) == [many[-1]]


clients, groups = st.sampled_from("xyz"), st.sampled_from("AAABC")
accepting = st.builds(Asked, clients, groups, st.sampled_from([False, False, True]))
operations = st.lists(accepting | st.integers(0, 40), max_size=60)


@given(operations, st.integers(1, 4))
def test_whatever_comes_and_goes_groups_never_mix_and_all_begin_when_they_were_told(
    operations: list[Asked | int], at_once: int
) -> None:
    desk: Desk[Asked] = Desk(at_once)
    for operation in operations:
        if isinstance(operation, Asked):
            desk.accept(operation)
        elif desk.running and operation % 3:
            desk.finish(desk.running[operation % len(desk.running)])
        elif desk.waiting:
            assert desk.withdraw(desk.waiting[operation % len(desk.waiting)])
        taken(desk)
        assert len({job.group for job in desk.running}) <= 1
        assert sum(not job.brief for job in desk.running) <= at_once
        assert desk.running or not desk.waiting
    told, ended = dict(desk.places()), 0
    assert set(told) == set(desk.waiting)
    order = []
    while desk.running:
        job = min(desk.running, key=lambda job: not job.brief)
        desk.finish(job)
        ended += not job.brief
        for begun in taken(desk):
            order.append(begun)
            assert told[begun] == ended
    assert order == list(told) and desk.idle


def test_eight_answers_in_bulk_take_the_place_of_one() -> None:
    desk: Desk[Asked] = Desk(at_once=2)
    bulk = [Asked("x", bulk=True) for _ in range(2 * BULK + 1)]
    assert accept(desk, *bulk) == bulk[: 2 * BULK]
    assert [ahead for _, ahead in desk.places()] == [1]
    desk.finish(bulk[3])
    assert taken(desk) == [bulk[-1]]


def test_whoever_asks_beside_a_bulk_waits_for_one_of_its_answers() -> None:
    desk: Desk[Asked] = Desk(at_once=1)
    bulk, person = [Asked("x", bulk=True) for _ in range(3 * BULK)], Asked("y")
    accept(desk, *bulk)
    desk.accept(person)
    assert {job.client: ahead for job, ahead in desk.places() if job is person} == {"y": 2}
    desk.finish(bulk[0])
    assert taken(desk) == [bulk[BULK]], "its client's turn came first"
    desk.finish(bulk[1])
    assert taken(desk) == [person]
    desk.finish(bulk[2])
    assert taken(desk) == [], "it takes a whole place"
