"""The kernel finds the scales that torch's operators find, for whatever groups, on however many threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.nn import rounding
from engine.nn.kernels import search as kernel
from engine.nn.rounding import best_scales, round_matrix


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def by_torch(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> torch.Tensor:
    with monkeypatch.context() as patched:
        patched.setattr(rounding, "search", lambda *_: None)
        return best_scales(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e-9, 1e-5, 0.02, 1.0, 3e4])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_its_scales_cost_no_more_error(
    monkeypatch: pytest.MonkeyPatch, size: float, bits: int, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(bits)
    groups = torch.randn(1000, 32, generator=generator) * size
    groups[::7] *= torch.rand(143, 32, generator=generator) ** 6  # unlike each other
    groups[3] = 0
    weights = torch.rand(32, generator=generator) if weighted else None
    assert kernel.search(groups, bits, (1.0,), weights) is not None, "there is a compiler where this runs"
    found, expected = best_scales(groups, bits, weights), by_torch(monkeypatch, groups, bits, weights)

    def errors(scales: torch.Tensor) -> torch.Tensor:
        codes = (groups / scales[:, None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        costs = 1 if weights is None else weights.double()
        return ((codes * scales[:, None] - groups).double().square() * costs).sum(-1)

    assert torch.equal(found.half().float(), found)
    assert bool((errors(found) <= errors(expected) * 1.0001 + 1e-30).all())
    assert (
        float((found == expected).float().mean()) > 0.98
    )  # of scales that cost the same it may take another


def test_threads_share_the_groups_and_change_nothing() -> None:
    values = torch.randn(300, 1000 * 32, generator=torch.Generator().manual_seed(3))[:, : 997 * 32]
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(round_matrix(values, "u4"))
    assert all(torch.equal(one.codes, found[0].codes) for one in found)
    assert all(torch.equal(one.scales, found[0].scales) for one in found)
