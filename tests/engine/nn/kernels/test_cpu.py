"""The kernels compute what the dequantized matrix gives, and a row's bits depend on nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from quantized_matrices import random_matrix

from engine.nn.kernels.build import INSTRUCTION_SETS, kernels
from engine.nn.kernels.cpu import Ready, ready, used_for
from engine.nn.quantized import Kind, Quantized

ROWS = (1, 2, 3, 7, 16, 17, 64, 66)
"""Around the rows that are computed side by side, and those for which weights are decoded once."""
SHAPES = (
    (5, 64, 32),
    (67, 1024, 128),
    (33, 2208, 2208),  # one group, beyond what is decoded at once, and not a multiple of it
    (42, 1056, 96),  # groups across what is decoded at once
    (9, 1440, 1024),  # a short last group
    (12, 64, 4096),  # a group longer than the matrix is wide
)
"""Outputs, inputs and group; outputs are odd numbers too."""
ULP = 2**-23


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def kernel(matrix: Quantized) -> Ready:
    found = ready(matrix)
    assert found is not None
    return found


def available() -> list[str]:
    found = kernels()
    assert found is not None, "these tests need a C compiler"
    return [name for at, name in enumerate(INSTRUCTION_SETS) if found.library.mull_has(at)]


@pytest.mark.parametrize("scales", [torch.float16, torch.float32])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kind", ["u4", "s8", "f8"])
def test_products_agree_with_float64_and_a_rows_bits_depend_on_nothing_else(
    kind: Kind, zeros: bool, scales: torch.dtype
) -> None:
    for outputs, inputs, group in SHAPES + (((7, 80, 16),) if kind != "u4" else ()):
        matrix = random_matrix(kind, outputs, inputs, group=group, zeros=zeros, scales=scales)
        x = torch.randn(max(ROWS), inputs) * torch.logspace(-2, 2, max(ROWS))[:, None]
        dense = matrix.dequantize().double()
        expected = x.double() @ dense.t()
        # of what is added up, were nothing to cancel; a zero that is no integer is rounded with its scale
        size = x.double().abs() @ dense.abs().t()
        for name in available():
            whole = kernel(matrix).multiply(x, instruction_set=name)
            assert ((whole - expected).abs() / size).max() < 4 * ULP, (name, outputs, inputs, group)
            for count in (1, 2):
                torch.set_num_threads(count)
                for rows in ROWS:
                    for part in (slice(rows), slice(max(ROWS) - rows, None)):
                        alone = kernel(matrix).multiply(x[part], instruction_set=name)
                        assert torch.equal(alone, whole[part]), (name, count, rows, outputs, inputs)


def test_weights_whose_zero_is_an_integer_are_rounded_as_dequantized_ones_are() -> None:
    matrix = random_matrix("u4", 16, 64, group=32)
    for zeros in (None, torch.full_like(matrix.scales, 5)):
        shifted = Quantized("u4", matrix.codes, matrix.scales, 32, zeros)
        for name in available():
            out = kernel(shifted).multiply(torch.eye(64), instruction_set=name)
            assert torch.equal(out.t(), shifted.dequantize()), name


def test_every_code_of_eight_bits_is_decoded_also_those_that_are_no_numbers() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(1, 256).expand(4, 256).contiguous()
    for kind, values in (("s8", codes.view(torch.int8)), ("f8", codes.view(torch.float8_e4m3fn))):
        matrix = Quantized(kind, values, torch.full((4, 1), 0.5), 256)
        expected = values[0].float() * 0.5
        for name in available():
            for rows in (1, 256):
                for at in range(0, 256, rows):
                    x = torch.eye(256)[at : at + rows]
                    out = kernel(matrix).multiply(x, instruction_set=name)
                    if kind == "f8":  # one that is no number is in every sum
                        assert out.isnan().all()
                    else:
                        assert torch.equal(out[:, 0], expected[at : at + rows])
    numbers = codes.clone()
    numbers[codes & 127 == 127] = 0
    matrix = Quantized("f8", numbers.view(torch.float8_e4m3fn), torch.ones(4, 1), 256)
    for name in available():
        assert torch.equal(
            kernel(matrix).multiply(torch.eye(256), instruction_set=name).t(), matrix.dequantize()
        )


@pytest.mark.parametrize("kind", ["u4", "s8", "f8"])
def test_what_is_no_number_stays_in_its_row(kind: Kind) -> None:
    matrix = random_matrix(kind, 40, 128, group=64)
    x = torch.randn(5, 128)
    clean = kernel(matrix).multiply(x)
    x[1, 3], x[3, 7] = torch.nan, torch.inf
    out = kernel(matrix).multiply(x)
    assert torch.equal(out[[0, 2, 4]], clean[[0, 2, 4]])
    assert out[1].isnan().all() and not out[3].isfinite().any()


def test_each_expert_multiplies_its_own_rows_and_the_others_none() -> None:
    matrix = random_matrix("u4", 6, 37, 96, group=32, zeros=True)
    experts, begins = torch.tensor([4, 0, 5]), torch.tensor([0, 1, 1, 20])
    x = torch.randn(20, 96)
    for count in (1, 2):
        torch.set_num_threads(count)
        out = kernel(matrix).multiply(x, experts, begins)
        assert torch.equal(out[:1], kernel(matrix.expert(4)).multiply(x[:1]))
        assert torch.equal(out[1:], kernel(matrix.expert(5)).multiply(x[1:]))


def test_many_callers_at_once_get_what_one_alone_gets() -> None:
    from concurrent.futures import ThreadPoolExecutor

    torch.set_num_threads(2)
    matrices = [random_matrix("s8", 1024, 1024, group=128, seed=seed) for seed in range(4)]
    x = torch.randn(3, 1024)
    expected = [kernel(matrix).multiply(x) for matrix in matrices]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(20):
            for out, wanted in zip(
                callers.map(lambda matrix: kernel(matrix).multiply(x), matrices), expected, strict=True
            ):
                assert torch.equal(out, wanted)


def test_what_no_kernel_is_written_for_is_left_to_torch() -> None:
    fits, other = random_matrix("s8", 8, 64, group=32), random_matrix("s8", 8, 64, group=24)
    assert ready(other) is None and ready(random_matrix("s8", 8, 72, group=72)) is None
    assert used_for([fits, fits]) == available()[-1]
    assert used_for([fits, other]) is None and used_for([]) is None
