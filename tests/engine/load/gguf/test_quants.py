"""A matrix read from GGUF's blocks is what the gguf package makes of them."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf_files import decode, encode

from engine.load.gguf.block_types import TYPES, Type
from engine.load.gguf.quants import KEPT, read_matrix, read_values

BY_NAME = {kind.name: kind for kind in TYPES.values()}
ROWS, INPUTS = 16, 1024
HALVES = {"Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where a block has float16 scales, which random bytes would make infinite."""


def weights(seed: int = 0, rows: int = ROWS) -> np.ndarray:
    """Values as trained matrices have them, with an outlier here and there."""
    generator = np.random.default_rng(seed)
    values = generator.normal(scale=0.02, size=(rows, INPUTS)) * generator.choice(
        [1, 8], (rows, INPUTS), p=[0.99, 0.01]
    )
    return values.astype(np.float32)


def random_blocks(kind: Type) -> np.ndarray:
    """All that the bytes of a block can say."""
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 256, (ROWS, INPUTS // kind.block, kind.nbytes), dtype=np.uint8)
    for start in HALVES[kind.name]:
        halves = generator.uniform(1e-4, 1e-2, (*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., start : start + 2] = halves.view(np.uint8)
    return blocks.reshape(ROWS, -1)


def far_from_zero() -> np.ndarray:
    """Q4_K blocks whose values are some tens of steps below zero."""
    blocks = random_blocks(BY_NAME["Q4_K"]).reshape(ROWS, -1, 144)
    for start, unit in ((0, 1e-4), (2, 4e-3)):
        halves = np.random.default_rng(start).uniform(unit, 2 * unit, (*blocks.shape[:2], 1))
        blocks[..., start : start + 2] = halves.astype(np.float16).view(np.uint8)
    blocks[..., 4:16] = 0xFF
    return blocks.reshape(ROWS, -1)


def as_tensor(data: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(data).reshape(-1))


def test_what_is_known_of_types_is_what_the_gguf_package_says() -> None:
    for number, kind in TYPES.items():
        known = gguf.GGMLQuantizationType(number)
        assert (known.name, gguf.GGML_QUANT_SIZES[known]) == (kind.name, (kind.block, kind.nbytes))
    assert {kind.name for kind in TYPES.values() if kind.kept} == set(KEPT)


@pytest.mark.parametrize("name", sorted(set(KEPT) - {"Q4_K", "Q5_K"}))
def test_kept_matrices_have_exactly_the_values_of_the_file(name: str) -> None:
    kind = BY_NAME[name]
    for data in (encode(weights(), name), random_blocks(kind)):
        matrix = read_matrix(as_tensor(data), kind, (ROWS, INPUTS))
        assert torch.equal(matrix.dequantize(), torch.from_numpy(decode(data, name)))
        assert matrix.nbytes / matrix.elements == kind.kept


def test_q5_k_is_the_files_but_for_the_rounding_of_float32() -> None:
    kind = BY_NAME["Q5_K"]
    data = random_blocks(kind)
    matrix = read_matrix(as_tensor(data), kind, (ROWS, INPUTS))
    expected = torch.from_numpy(decode(data, "Q5_K"))
    largest = expected.abs().view(ROWS, -1, 32).amax(-1, keepdim=True)
    assert ((matrix.dequantize() - expected).view(ROWS, -1, 32).abs() <= largest * 2**-21).all()
    assert matrix.nbytes / matrix.elements == kind.kept


def q4_k_steps(data: np.ndarray) -> torch.Tensor:
    """The distance of two codes of each group in the file, [rows, groups]: found by setting all codes."""
    blocks = data.reshape(ROWS, -1, 144).copy()
    ends = []
    for code in (0x00, 0x11):
        blocks[..., 16:] = code
        ends.append(decode(blocks.reshape(ROWS, -1), "Q4_K").reshape(ROWS, -1, 32)[..., 0])
    return torch.from_numpy(ends[1] - ends[0])


Q4_K_BLOCKS = {
    "trained": lambda: encode(weights(), "Q4_K"),
    "random": lambda: random_blocks(BY_NAME["Q4_K"]),
    "far": far_from_zero,
}


@pytest.mark.parametrize("source", Q4_K_BLOCKS)
def test_q4_k_is_within_a_hundredth_of_a_step_of_the_file(source: str) -> None:
    data = Q4_K_BLOCKS[source]()
    matrix = read_matrix(as_tensor(data), BY_NAME["Q4_K"], (ROWS, INPUTS))
    expected = torch.from_numpy(decode(data, "Q4_K"))
    off = (matrix.dequantize() - expected).abs().view(ROWS, -1, 32).amax(-1)
    steps = q4_k_steps(data)
    rounding = expected.abs().view(ROWS, -1, 32).amax(-1) * 2**-22  # of float32, where there is no step
    assert (off <= 0.01 * steps + rounding).all()
    if source == "trained":
        assert (
            matrix.scales.dtype == torch.float16 and matrix.nbytes / matrix.elements == BY_NAME["Q4_K"].kept
        )
        assert (off <= 0.0077 * steps).all(), "as near as float16 allows: 7.5 / 2048 + 1 / 256"
        assert (off > 1e-4 * steps).any(), "float16 shows"
    elif source == "random":
        assert (steps == 0).any(), "groups of minima alone are among them"


def test_a_q4_k_matrix_of_zeros_stays_small_and_zero() -> None:
    data = np.zeros((ROWS, INPUTS // 256 * 144), np.uint8)
    matrix = read_matrix(as_tensor(data), BY_NAME["Q4_K"], (ROWS, INPUTS))
    assert matrix.scales.dtype == torch.float16 and not matrix.dequantize().any()


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1", "F16", "BF16", "F32"])
def test_other_types_become_the_values_that_the_gguf_package_gives(name: str) -> None:
    data = encode(weights(), name)
    values = read_values(as_tensor(data.view(np.uint8)), BY_NAME[name], (ROWS, INPUTS))
    assert torch.equal(values.float(), torch.from_numpy(decode(data, name)))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K"])
@pytest.mark.parametrize("at_once", [2**24, 3 * INPUTS])
def test_experts_are_read_as_one_matrix_each_however_many_rows_at_once(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.load.gguf.quants._AT_ONCE", at_once)
    data = encode(weights(rows=4 * ROWS), name)
    matrix = read_matrix(as_tensor(data), BY_NAME[name], (4, ROWS, INPUTS))
    expected = torch.from_numpy(decode(data, name))
    assert matrix.shape == (4, ROWS, INPUTS)
    assert torch.allclose(matrix.dequantize().flatten(0, 1), expected, atol=0 if name == "Q4_0" else 1e-3)
