"""Sequences whose keys and values tell which tokens led to them, so that a wrong page is seen."""

from __future__ import annotations

import itertools

import torch

from engine.runtime.pages import PAGE, PagePool
from engine.runtime.sequence import Sequence


def marks(ids: list[int]) -> torch.Tensor:
    """What a model's keys are like: each depends on its token and on all before it. [tokens]"""
    hashes = itertools.accumulate(ids, lambda before, token: hash((before, token)) % 2**24, initial=7)
    return torch.tensor([float(mark) for mark in hashes][1:])


def lying(pool: PagePool) -> torch.Tensor:
    """Keys and values of a pool of one layer and one head, [2, slots, head_dim]."""
    return pool.storage.memory[:, 0, 0].flatten(1, 2)


def slots(table: list[int], tokens: range) -> list[int]:
    return [table[at // PAGE] * PAGE + at % PAGE for at in tokens]


def write(sequence: Sequence, ids: list[int]) -> None:
    """Forward ids, as far as memory is concerned."""
    sequence.reserve(len(sequence.ids) + len(ids))
    sequence.ids += ids
    new = range(sequence.cached, len(sequence.ids))
    keys, values = lying(sequence.pool)
    keys[slots(sequence.table, new), 0] = marks(sequence.ids)[new.start :]
    values[slots(sequence.table, new), 1] = -marks(sequence.ids)[new.start :]
    sequence.cached = sequence.seen = len(sequence.ids)


def holds_its_own(sequence: Sequence) -> bool:
    """Whether the sequence's pages contain what its ids lead to."""
    where = slots(sequence.table, range(sequence.cached))
    expected = marks(sequence.ids)[: sequence.cached]
    keys, values = lying(sequence.pool)
    return torch.equal(keys[where, 0], expected) and torch.equal(values[where, 1], -expected)


def pages_of(ids: list[int]) -> list[torch.Tensor]:
    """The contents of the full pages of `ids` in a pool of one layer, one head and two dimensions."""
    out = []
    for page in marks(ids).split(PAGE)[: len(ids) // PAGE]:
        contents = torch.zeros(2, 1, 1, PAGE, 2)
        contents[0, 0, 0, :, 0], contents[1, 0, 0, :, 1] = page, -page
        out.append(contents)
    return out


def adopted(pool: PagePool, ids: list[int]) -> Sequence:
    """A sequence with as much of `ids` as the pool has."""
    sequence = Sequence(pool)
    sequence.adopt(ids)
    sequence.ids = ids[: sequence.cached]
    return sequence


def begun(pool: PagePool, ids: list[int]) -> Sequence:
    """A sequence with a prompt, the last token not adopted."""
    sequence = adopted(pool, ids[:-1])
    write(sequence, ids[sequence.cached :])
    return sequence


def said(pool: PagePool, ids: list[int]) -> None:
    """A sequence that came and went."""
    begun(pool, ids).release()
