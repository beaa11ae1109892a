"""GPTQ's solver does what the paper's update does, and better than rounding by the same grid."""

from __future__ import annotations

import pytest
import torch

from engine.nn.rounding import best_scales
from engine.quantize.solver import DAMPING, Hessian, Solved, output_error, solve

CASES = [(4, 32, False), (4, 64, True), (4, 128, False), (4, -1, False), (4, -1, True), (8, 32, True)]


def correlated(inputs: int, seed: int, rows: int = 500) -> torch.Tensor:
    """Inputs as layers have them: of unlike sizes, and hanging together."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) * inputs**-0.5
    x = torch.randn(rows, inputs, generator=generator) @ (mix + 0.3 * torch.eye(inputs))
    return x * torch.rand(inputs, generator=generator).mul(2).exp()


def hessian_of(x: torch.Tensor) -> Hessian:
    hessian = Hessian(x.shape[1])
    for part in x.split(100):
        hessian.add(part)
    return hessian


def nearest(weight: torch.Tensor, scales: torch.Tensor, group_of: torch.Tensor, bits: int) -> torch.Tensor:
    spread, middle = scales[:, group_of], 2 ** (bits - 1)
    return (weight / spread).round().clamp(-middle, middle - 1) * spread


def column_by_column(weight: torch.Tensor, x: torch.Tensor, solved: Solved, descending: bool) -> torch.Tensor:
    """Codes by OBQ's update alone, in float64: the inverse of what is left is made anew for each column."""
    hessian = x.double().T @ x.double()
    squares = hessian.diagonal().clone()
    hessian += DAMPING * squares.mean() * torch.eye(len(hessian))
    left, middle = weight.double().clone(), 2 ** (solved.bits - 1)
    columns = list(range(weight.shape[1]))
    if descending:
        columns = torch.argsort(squares.float(), descending=True, stable=True).tolist()
    codes = torch.empty_like(left)
    while columns:
        inverse = torch.linalg.inv(hessian[columns][:, columns])
        column = columns[0]
        scale = solved.scales.double()[:, solved.group_of[column]]
        codes[:, column] = (left[:, column] / scale).round().clamp(-middle, middle - 1)
        error = (left[:, column] - codes[:, column] * scale) / inverse[0, 0]
        left[:, columns] -= error[:, None] * inverse[0]
        columns = columns[1:]
    return codes + middle


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("bits", "group", "descending"), CASES)
def test_outputs_change_much_less_than_by_rounding_to_the_nearest_code(
    bits: int, group: int, descending: bool, seed: int
) -> None:
    x = correlated(256, seed)
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(seed + 100)) / 16
    hessian = hessian_of(x)
    solved = solve(weight, hessian.factor(descending), bits, group)
    size = 256 if group == -1 else group
    scales = torch.stack([best_scales(part, bits) for part in weight.split(size, 1)], 1)
    rounded = nearest(weight, scales, torch.arange(256) // size, bits)
    errors = [output_error(weight - found, hessian.matrix) for found in (solved.values(), rounded)]
    assert errors[0] < 0.6 * errors[1]
    assert errors[0] == pytest.approx(float((x @ (weight - solved.values()).T).square().sum()), rel=1e-3)


@pytest.mark.parametrize(("bits", "group", "descending"), CASES)
def test_codes_are_those_of_the_update_column_by_column(bits: int, group: int, descending: bool) -> None:
    x = correlated(192, seed=5)
    weight = torch.randn(12, 192, generator=torch.Generator().manual_seed(6)) / 14
    solved = solve(weight, hessian_of(x).factor(descending), bits, group)
    expected = column_by_column(weight, x, solved, descending)
    # a value halfway between two codes may fall either way in float32, and takes its row along
    differing = (solved.codes != expected).any(1).float().mean()
    assert float(differing) <= (1 / 12 if bits == 4 else 3 / 12)


def test_an_input_that_is_always_zero_and_fewer_texts_than_inputs_are_no_obstacle() -> None:
    x = correlated(128, seed=1, rows=40)
    x[:, 7] = 0
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(2))
    solved = solve(weight, hessian_of(x).factor(), 4, 32)
    assert bool(torch.isfinite(solved.values()).all())
    assert float((x @ (weight - solved.values()).T).norm() / (x @ weight.T).norm()) < 0.1


def test_inputs_that_are_no_numbers_are_refused() -> None:
    x = correlated(64, seed=0)
    x[3, 4] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        hessian_of(x).factor()
