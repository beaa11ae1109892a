"""Pages are never lost, never written while shared, found by their tokens alone, and free until written."""

from __future__ import annotations

import psutil
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from marked_pages import adopted, begun, holds_its_own, pages_of, said, write

from engine.runtime import prefixes
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.prefixes import WORTH_COPYING
from engine.runtime.sequence import Sequence

PAGES = 12
WORDS = [[word] * length for word, length in zip(range(1, 5), (PAGE, 40, 90, 7), strict=True)]
"""What texts are made of: few and long, so that they begin alike and part inside of pages."""
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(
    lambda words: [token for word in words for token in word]
)


def small_pool() -> PagePool:
    return PagePool(1, 1, 2, PAGES, torch.float32, "cpu")


class Pages(RuleBasedStateMachine):
    """Sequences begin, grow, fork and end in any order over one small pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = small_pool()
        self.sequences: list[Sequence] = []

    @rule(ids=TEXTS)
    def begin(self, ids: list[int]) -> None:
        self.sequences.append(adopted(self.pool, ids))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), ids=TEXTS)
    def grow(self, data: st.DataObject, ids: list[int]) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        table, tokens = list(sequence.table), list(sequence.ids)
        if -(-(len(tokens) + len(ids)) // PAGE) - len(table) > self.pool.available:
            with pytest.raises(MemoryError):
                write(sequence, ids)
            assert (sequence.table, sequence.ids) == (table, tokens)
        else:
            write(sequence, ids)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        before = self.pool.available
        fork = sequence.fork()
        self.sequences.append(fork)
        if sequence.cached % PAGE and not before:
            assert fork.cached == sequence.cached // PAGE * PAGE, "its tail is left to be computed again"
        else:
            assert before - self.pool.available == (sequence.cached % PAGE > 0)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        sequence.publish()
        assert self.all_is_found(sequence)

    def all_is_found(self, sequence: Sequence) -> bool:
        return len(self.pool.known(sequence.ids)) == sequence.cached // PAGE

    @rule(ids=TEXTS, missing=st.integers(0, 4))
    def restore(self, ids: list[int], missing: int) -> None:
        known, available = len(self.pool.known(ids)), self.pool.available
        restored = self.pool.restore(ids, pages_of(ids)[missing:])
        assert self.pool.available == available
        now = len(self.pool.known(ids))
        assert restored == (now - known) * PAGE
        assert restored == 0 if known < min(missing, len(ids) // PAGE) else restored >= 0

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), sound=st.booleans())
    def end(self, data: st.DataObject, sound: bool) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        self.sequences.remove(sequence)
        sequence.release(sound=sound)
        sequence.release()

    @invariant()
    def the_books_are_right(self) -> None:
        self.pool.check_integrity(sequence.table for sequence in self.sequences)

    @invariant()
    def each_sequence_has_what_it_wrote_or_found(self) -> None:
        assert all(holds_its_own(sequence) for sequence in self.sequences)


class PagesWithCollidingHashes(Pages):
    """The same where all hashes are equal: they may find too little, never something wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._chained = prefixes.chained
        prefixes.chained = lambda digest, tokens: b"same"  # type: ignore[assignment]

    def all_is_found(self, sequence: Sequence) -> bool:
        return True

    def the_books_are_right(self) -> None:
        """The books say which hash is right."""

    def teardown(self) -> None:
        prefixes.chained = self._chained


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestPagesWithCollidingHashes = PagesWithCollidingHashes.TestCase
TestPagesWithCollidingHashes.settings = TestPages.settings


def test_what_was_said_is_found_to_the_token() -> None:
    pool, text = small_pool(), list(range(2 * PAGE + 30))
    said(pool, text)
    for other, found in [
        ([*text, 5], len(text)),
        ([*text[:-5], 999, *text], len(text) - 5),
        ([*text[: PAGE + 20], 999, *text], PAGE + 20),
        (text[: PAGE + WORTH_COPYING], PAGE + WORTH_COPYING),
        ([*text[: PAGE + WORTH_COPYING - 1], 999], PAGE),
        ([999, *text], 0),
    ]:
        sequence = adopted(pool, other)
        assert sequence.cached == found and holds_its_own(sequence)
        sequence.release()


def test_pages_with_the_same_tokens_after_others_are_not_taken_for_them() -> None:
    pool, page = small_pool(), [3] * PAGE
    said(pool, [*page, *page, 4])
    said(pool, [*[5] * PAGE, *page, 4])
    sequence = adopted(pool, [*[5] * PAGE, *page, *page])
    assert sequence.cached == 2 * PAGE and holds_its_own(sequence)
    sequence.release()
    sequence = adopted(pool, [*[6] * PAGE, *page])
    assert sequence.cached == 0


def test_tokens_with_the_same_hash_are_not_taken_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "chained", lambda digest, tokens: b"same")
    pool, one, other = small_pool(), [1] * (2 * PAGE), [2] * (2 * PAGE)
    said(pool, one)
    said(pool, other)
    for text, found in ((one, 2 * PAGE), (other, 0)):
        sequence = adopted(pool, text)
        assert sequence.cached == found and holds_its_own(sequence)
        sequence.release()


def test_sequences_that_begin_alike_share_full_pages_and_nothing_else() -> None:
    pool, text = small_pool(), list(range(3 * PAGE + 20))
    said(pool, text)
    one, other = begun(pool, [*text, 1]), begun(pool, [*text, 2])
    assert one.table[:3] == other.table[:3] and one.table[3] != other.table[3]
    assert pool.held == 5
    assert holds_its_own(one) and holds_its_own(other)
    pool.check_integrity([one.table, other.table])


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning() -> None:
    pool = small_pool()
    first, second, third = ([word] * (4 * PAGE) for word in (1, 2, 3))
    for text in (first, second, third):
        said(pool, text)
    assert (pool.idle, pool.held) == (PAGES, 0)
    said(pool, [*first, 9])  # used again; it needs a page more
    said(pool, [4] * (2 * PAGE))
    kept = {}
    for text in (first, second, third):
        sequence = adopted(pool, text)
        kept[text[0]] = sequence.cached // PAGE
        sequence.release()
    assert kept == {1: 4, 2: 1, 3: 4}


def test_a_conversation_that_grows_takes_the_place_of_its_shorter_self() -> None:
    pool, text = small_pool(), list(range(2 * PAGE))
    for length in range(PAGE + 10, 2 * PAGE, 10):
        said(pool, text[:length])
    assert pool.idle == 2


def test_idle_pages_move_so_that_a_sequence_lies_in_a_row() -> None:
    pool, system = small_pool(), [1] * PAGE
    said(pool, [*system, *[2] * (4 * PAGE)])
    said(pool, [*system, *[3] * (4 * PAGE)])
    for word in (2, 3, 2):
        sequence = begun(pool, [*system, *[word] * (5 * PAGE)])
        assert sequence.cached >= 5 * PAGE and holds_its_own(sequence)
        assert sequence.table == list(range(6))
        sequence.release()
        pool.check_integrity([])


def test_a_part_of_a_page_is_copied_even_where_it_is_the_oldest_in_a_full_pool() -> None:
    pool, short = small_pool(), list(range(20))
    said(pool, short)
    said(pool, [1] * ((PAGES - 1) * PAGE))
    assert pool.idle == PAGES
    sequence = begun(pool, [*short, 5])
    assert sequence.account.cached == len(short) and holds_its_own(sequence)
    pool.check_integrity([sequence.table])


def test_contents_in_doubt_are_not_found_again() -> None:
    pool, text = small_pool(), list(range(3 * PAGE))
    said(pool, text)
    begun(pool, [*text, *text]).release(sound=False)
    assert pool.match(text) == ([], 0)
    pool.check_integrity([])


def test_pages_that_come_back_go_on_where_those_that_stayed_end() -> None:
    pool, text = small_pool(), list(range(5 * PAGE))
    said(pool, text[: 3 * PAGE])
    assert pool.restore(text, pages_of(text)[4:]) == 0, "the page before it is missing"
    assert pool.restore(text, pages_of(text)[1:]) == 2 * PAGE
    sequence = begun(pool, [*text, 7])
    assert sequence.account.cached == len(text) and holds_its_own(sequence)
    assert pool.restore(text, pages_of(text)) == 0, "all of them are there"
    pool.check_integrity([sequence.table])


def test_pages_come_back_as_far_as_there_is_room() -> None:
    pool, text = small_pool(), list(range(6 * PAGE))
    holder = begun(pool, [1] * ((PAGES - 4) * PAGE))
    assert pool.restore(text, pages_of(text)) == 4 * PAGE
    assert pool.idle == 4 and holds_its_own(holder)
    pool.check_integrity([holder.table])


def test_the_check_notices_books_that_are_wrong() -> None:
    def fresh() -> tuple[PagePool, list[int]]:
        pool = small_pool()
        said(pool, [1] * (2 * PAGE))
        return pool, begun(pool, [1] * PAGE + [2] * PAGE).table

    pool, table = fresh()
    pool.check_integrity([table])
    for tables in ([table, table[:1]], [table[:1]], [[*table, PAGES - 1]], [[*table, table[0]]]):
        with pytest.raises(AssertionError):
            pool.check_integrity(tables)

    def lose_a_page(pool: PagePool) -> None:
        pool._free.pop()

    def free_an_idle_page(pool: PagePool) -> None:
        pool._free.add(next(iter(pool._idle)).page)

    def hang_a_page_elsewhere(pool: PagePool) -> None:
        child = next(iter(pool._idle))
        child.digest = prefixes.chained(b"", child.tokens)

    def change_the_tokens(pool: PagePool) -> None:
        next(iter(pool._idle)).tokens = (7,) * PAGE

    for harm in (lose_a_page, free_an_idle_page, hang_a_page_elsewhere, change_the_tokens):
        pool, table = fresh()
        harm(pool)
        with pytest.raises((AssertionError, KeyError)):
            pool.check_integrity([table])


def test_a_page_cannot_be_released_twice() -> None:
    pool = small_pool()
    table: list[int] = []
    pool.grow(table, 2)
    pool.release(table)
    with pytest.raises(ValueError, match="not held"):
        pool.release(table)


def test_a_pool_takes_memory_only_as_its_pages_are_written() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    pool = PagePool(4, 2, 64, 16384, torch.float32, "cpu")
    size = pool.pages * pool.page_bytes
    assert size == 4 << 30
    pool.storage.memory[0, 0, :, 0] = 1
    assert process.memory_info().rss - before < size / 20
