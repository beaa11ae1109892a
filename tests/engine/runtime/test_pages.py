"""Pages are never lost, never shared by accident, and cost nothing until they are written."""

from __future__ import annotations

import psutil
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.runtime.pages import PAGE, PagePool
from engine.runtime.sequence import Sequence

PAGES = 12


class Pages(RuleBasedStateMachine):
    """Sequences grow and end in any order over one small pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(1, 1, 2, PAGES, torch.float32, "cpu")
        self.sequences: list[Sequence] = []

    @rule()
    def begin(self) -> None:
        self.sequences.append(Sequence(self.pool))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), tokens=st.integers(1, 6 * PAGE))
    def grow(self, data: st.DataObject, tokens: int) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        table, needed = list(sequence.table), -(-tokens // PAGE)
        if needed - len(table) > len(self.pool.free):
            with pytest.raises(MemoryError):
                sequence.reserve(tokens)
            assert sequence.table == table
        else:
            sequence.reserve(tokens)
            assert sequence.table[: len(table)] == table
            assert len(sequence.table) == max(needed, len(table))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        self.sequences.remove(sequence)
        sequence.release()
        sequence.release()

    @invariant()
    def each_page_is_free_or_in_one_table(self) -> None:
        self.pool.check_integrity(sequence.table for sequence in self.sequences)
        assert self.pool.held + len(self.pool.free) == PAGES


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_the_check_notices_a_page_that_is_lost_shared_or_both_free_and_held() -> None:
    pool = PagePool(1, 1, 2, PAGES, torch.float32, "cpu")
    table = pool.allocate(3)
    pool.check_integrity([table])
    for tables in ([table, table[:1]], [table[:2]], [[*table, pool.free[-1]]]):
        with pytest.raises(AssertionError):
            pool.check_integrity(tables)
    pool.free.pop()
    with pytest.raises(AssertionError):
        pool.check_integrity([table])


def test_a_page_cannot_be_released_twice() -> None:
    pool = PagePool(1, 1, 2, PAGES, torch.float32, "cpu")
    table = pool.allocate(2)
    pool.release(table)
    with pytest.raises(ValueError, match="not held"):
        pool.release(table)


def test_a_pool_takes_memory_only_as_its_pages_are_written() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    pool = PagePool(4, 2, 64, 16384, torch.float32, "cpu")
    size = pool.pages * pool.page_bytes
    assert size == 4 << 30
    pool.keys[0][:, :PAGE] = 1
    assert process.memory_info().rss - before < size / 20
