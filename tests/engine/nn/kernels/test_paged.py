"""Attention by the kernel is that of the formula, and a token's bits depend on nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.nn.kernels.build import INSTRUCTION_SETS, kernels
from engine.nn.kernels.paged import PagedAttention, Tokens, paged_attention

PAGE = 64
LAYERS, PAGES, LAYER = 2, 48, 1
SCALE = 0.3
SEGMENTS = ((0, 1), (62, 3), (63, 1), (64, 1), (15, 2), (16, 1), (200, 5), (1300, 1), (0, 70))
"""Tokens that are in the pages, and that are new: around pages and vectors, and one beyond the stack."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def instruction_sets() -> list[str]:
    found = kernels()
    assert found is not None, "these tests need a C compiler"
    return [name for at, name in enumerate(INSTRUCTION_SETS) if found.library.mull_has(at)]


class Memory:
    """Pages with sequences scattered over them, and no number where nobody has written."""

    def __init__(self, kv_heads: int, width: int) -> None:
        self.memory = torch.full((2, LAYERS, kv_heads, PAGES, PAGE, width), float("nan"))
        free = torch.randperm(PAGES).tolist()
        self.segments = []
        for start, length in SEGMENTS:
            table = [free.pop() for _ in range(-(-(start + length) // PAGE))]
            for position in range(start + length):
                page = table[position // PAGE]
                self.memory[:, LAYER, :, page, position % PAGE] = torch.randn(2, kv_heads, width)
            self.segments.append((table, start, length))

    def kernel(self) -> PagedAttention:
        found = paged_attention(self.memory)
        assert found is not None
        return found

    def expected(self, query: torch.Tensor, window: int | None) -> torch.Tensor:
        """In float64, [tokens, heads, width]."""
        rows = []
        for table, start, length in self.segments:
            keys, values = self.memory[:, LAYER, :, table].flatten(2, 3).double()
            for total in range(start + 1, start + length + 1):
                seen = slice(max(0, total - window) if window else 0, total)
                of_token = query[:, len(rows)].double().view(len(keys), -1, query.shape[-1])
                shares = (of_token @ keys[:, seen].transpose(1, 2) * SCALE).softmax(-1)
                rows.append((shares @ values[:, seen]).flatten(0, 1))
        return torch.stack(rows)


@pytest.mark.parametrize("window", [None, 7, 64, 100])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(8, 4, 32), (4, 1, 128), (3, 1, 16), (7, 7, 80)])
def test_it_agrees_with_float64_and_a_tokens_bits_depend_on_nothing_else(
    heads: int, kv_heads: int, width: int, window: int | None
) -> None:
    torch.manual_seed(heads)
    memory = Memory(kv_heads, width)
    count = sum(length for _, _, length in memory.segments)
    # the queries of a token lie beside its keys and values, as a joined product leaves them
    query = torch.randn(count, heads + 2, width)[:, :heads].transpose(0, 1) * 3
    expected = memory.expected(query, window)
    for name in instruction_sets():
        kernel = memory.kernel()
        whole = kernel(Tokens.of(memory.segments), LAYER, query, SCALE, window, name)
        assert (whole - expected).abs().max() < 2e-5
        torch.set_num_threads(3)
        assert torch.equal(kernel(Tokens.of(memory.segments), LAYER, query, SCALE, window, name), whole)
        torch.set_num_threads(1)
        begin = 0
        for table, start, length in memory.segments:
            for at in range(length):
                alone = query[:, begin + at : begin + at + 1].contiguous()
                tokens = Tokens.of([(table, start + at, 1)])
                assert torch.equal(kernel(tokens, LAYER, alone, SCALE, window, name)[0], whole[begin + at]), (
                    name,
                    start,
                    at,
                )
            begin += length


def test_what_is_no_number_is_seen_by_those_who_read_it_alone() -> None:
    memory = Memory(2, 32)
    broken = next(number for number, (_, start, _) in enumerate(memory.segments) if start == 200)
    memory.memory[0, LAYER, :, memory.segments[broken][0][1], 5, 0] = float("nan")
    query = torch.randn(2, sum(length for *_, length in memory.segments), 32)
    out = memory.kernel()(Tokens.of(memory.segments), LAYER, query, SCALE, None)
    numbers = out.isfinite().all(-1).all(-1)
    owners = [number for number, (*_, length) in enumerate(memory.segments) for _ in range(length)]
    assert [bool(fine) for fine in numbers] == [owner != broken for owner in owners]


def test_there_is_none_for_pages_that_it_cannot_read() -> None:
    for width, dtype in ((32, torch.bfloat16), (24, torch.float32)):
        assert paged_attention(torch.empty((2, 1, 2, 3, PAGE, width), dtype=dtype)) is None
