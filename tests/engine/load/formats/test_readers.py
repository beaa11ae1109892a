"""Each format's reader finds what was written bit by bit from the format's description, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_checkpoint import Codes, Parts, awq, bytes_, float8, gptq, packed, quantized
from safetensors import safe_open

from engine.load.checkpoint import inspect
from engine.load.formats import scheme_of
from engine.load.model import load_model
from engine.nn.quantized import Quantized

FIXTURES = Path(__file__).parents[3] / "fixtures" / "gptq"


def values(inputs: int, outputs: int = 96) -> np.ndarray:
    generator = np.random.default_rng(inputs)
    return (generator.normal(size=(outputs, inputs)) + generator.normal(size=(outputs, 1)) / 2).astype(
        np.float32
    )


def read(config: Mapping[str, Any], parts: Parts) -> Quantized | torch.Tensor:
    return scheme_of(Path("config.json"), config).read(parts)


def matrix(config: Mapping[str, Any], parts: Parts) -> Quantized:
    found = read(config, parts)
    assert isinstance(found, Quantized)
    return found


def gptq_config(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, **more}


def compressed(bits: int, group: int | None = None, **weights: Any) -> dict[str, Any]:
    strategy = {"strategy": "channel"} if group is None else {"strategy": "group", "group_size": group}
    chosen = {"num_bits": bits, "type": "int", "symmetric": True, **strategy, **weights}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": chosen}},
    }


@pytest.mark.parametrize("ordered", [None, 7], ids=["as they come", "desc_act"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("group", [-1, 32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_is_read(bits: int, group: int, version: int, symmetric: bool, ordered: int | None) -> None:
    written = quantized(values(256), bits, group, symmetric, ordered)
    config = gptq_config(
        bits,
        group,
        checkpoint_format="gptq" if version == 1 else "gptq_v2",
        desc_act=ordered is not None,
    )
    found = matrix(config, gptq(written, version))
    assert found.kind == ("s8" if bits == 8 else "u4")
    assert (found.order is not None) == (ordered is not None and group != -1)
    np.testing.assert_array_equal(found.dequantize().numpy(), written.values())


def test_gptq_without_a_version_is_the_first() -> None:
    written = quantized(values(64))
    np.testing.assert_array_equal(
        matrix(gptq_config(4, 32), gptq(written)).dequantize().numpy(), written.values()
    )


def test_a_last_group_may_be_short_and_inputs_no_multiple_of_32() -> None:
    for inputs in (40, 160):
        written = quantized(values(inputs), 4, 64)
        found = matrix(gptq_config(4, 64), gptq(written))
        assert found.kind == ("s8" if inputs % 32 else "u4")
        np.testing.assert_array_equal(found.dequantize().numpy(), written.values())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_zero_of_0_does_not_carry_into_its_neighbors(bits: int) -> None:
    """Version 1 stores it as 2^bits - 1: one added to the whole word would change the next zero."""
    plain = quantized(values(64), bits, 32)
    zeros = plain.zeros.copy()
    zeros[::3], zeros[1::3] = 0, 2**bits - 1
    written = Codes(plain.codes, plain.scales, zeros, plain.group_of, bits)
    np.testing.assert_array_equal(
        matrix(gptq_config(bits, 32), gptq(written)).dequantize().numpy(), written.values()
    )


def test_symmetric_matrices_keep_no_zeros() -> None:
    for bits in (2, 3, 4, 8):
        assert matrix(gptq_config(bits, 32), gptq(quantized(values(64), bits, 32, True))).zeros is None


def test_groups_of_unequal_sizes_become_dense() -> None:
    plain = quantized(values(128), ordered=3)
    group_of = np.where(np.arange(128) < 10, 0, plain.group_of)
    written = Codes(plain.codes, plain.scales, plain.zeros, group_of, 4)
    found = read(gptq_config(4, 32, desc_act=True), gptq(written))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), written.values())


def test_a_g_idx_of_zeros_says_nothing_where_inputs_are_not_ordered() -> None:
    written = quantized(values(128))
    parts = gptq(written)
    for empty in ({**parts, "g_idx": torch.zeros_like(parts["g_idx"])}, {**parts}):
        if empty["g_idx"].any():
            del empty["g_idx"]
        np.testing.assert_array_equal(
            matrix(gptq_config(4, 32, desc_act=False), empty).dequantize().numpy(), written.values()
        )


def test_modules_of_other_bits_and_groups_are_told_by_their_shapes() -> None:
    dynamic = {"+:.*down_proj": {"bits": 8, "group_size": 64}, r"-:lm_head": {}, "v_proj": {"group_size": -1}}
    for bits, group in ((4, 32), (8, 64), (4, -1)):
        written = quantized(values(128), bits, group)
        np.testing.assert_array_equal(
            matrix(gptq_config(4, 32, dynamic=dynamic), gptq(written)).dequantize().numpy(), written.values()
        )


@pytest.mark.parametrize("name", ["g64sym", "b8"])
def test_gptq_equals_what_another_programs_solver_settled_on(name: str) -> None:
    """Its weights are in 16 bits: the difference is one rounding of scale x (code - zero)."""
    model = load_model(inspect(FIXTURES / name), "fp32", "cpu", "sdpa", lambda *_: None)
    with safe_open(FIXTURES / name / "dequantised.reference", "pt") as file:
        assert len(list(file.keys())) == 7
        for key in file.keys():  # noqa: SIM118  it is no mapping
            expected = file.get_tensor(key)
            found = model.get_submodule(key.removesuffix(".weight")).matrix.dequantize().half()
            apart = (found.view(torch.int16).int() - expected.view(torch.int16).int()).abs()
            assert int(apart.max()) <= 1, key


@pytest.mark.parametrize("group", [-1, 32, 64, 128])
def test_awq_is_read(group: int) -> None:
    written = quantized(values(256), 4, group)
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    found = matrix(config, awq(written))
    assert found.kind == "u4"
    np.testing.assert_array_equal(found.dequantize().numpy(), written.values())


@pytest.mark.parametrize("ordered", [None, 7], ids=["as they come", "actorder"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group", [None, 32, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_compressed_tensors_are_read(
    bits: int, group: int | None, symmetric: bool, ordered: int | None
) -> None:
    written = quantized(values(256), bits, group or -1, symmetric, ordered)
    found = matrix(compressed(bits, group, symmetric=symmetric), packed(written))
    assert found.kind == ("s8" if bits == 8 else "u4")
    np.testing.assert_array_equal(found.dequantize().numpy(), written.values())


def test_packed_rows_and_zeros_that_do_not_fill_their_words_are_read() -> None:
    written = quantized(values(44, outputs=21), 4, 11)
    found = matrix(compressed(4, 11, symmetric=False), packed(written))
    np.testing.assert_array_equal(found.dequantize().numpy(), written.values())


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group", [None, 32])
def test_bytes_of_compressed_tensors_are_read(group: int | None, symmetric: bool) -> None:
    written = quantized(values(64), 8, group or -1, symmetric)
    found = matrix(compressed(8, group, symmetric=symmetric), bytes_(written))
    assert found.kind == "s8"
    np.testing.assert_array_equal(found.dequantize().numpy(), written.values())


def test_groups_of_modules_with_different_bits_are_told_by_their_shapes() -> None:
    config = compressed(4, 32)
    other = compressed(8, None)["config_groups"]["group_0"]
    config["config_groups"]["group_1"] = other
    for written in (quantized(values(64), 4, 32, True), quantized(values(64), 8, -1, True)):
        np.testing.assert_array_equal(matrix(config, packed(written)).dequantize().numpy(), written.values())


@pytest.mark.parametrize("block", [(128, 128), (32, 64), None], ids=["128x128", "32x64", "one scale"])
def test_fp8_is_read_at_about_a_byte_per_weight(block: tuple[int, int] | None) -> None:
    parts, expected = float8(values(300, outputs=200), block, "weight_scale_inv")
    found = matrix({"quant_method": "fp8", "weight_block_size": list(block) if block else None}, parts)
    assert found.kind == "f8"
    assert found.nbytes < 1.1 * found.elements
    np.testing.assert_array_equal(found.dequantize().numpy(), expected)


@pytest.mark.parametrize(
    ("strategy", "block"),
    [("tensor", None), ("channel", (1, 300)), ("group", (1, 100)), ("block", (64, 100))],
)
def test_float8_of_compressed_tensors_is_read(strategy: str, block: tuple[int, int] | None) -> None:
    parts, expected = float8(values(300, outputs=200), block, "weight_scale")
    config = compressed(
        8, type="float", strategy=strategy, group_size=100, block_structure=block and list(block)
    )
    found = matrix(config, parts)
    assert found.kind == "f8"
    np.testing.assert_array_equal(found.dequantize().numpy(), expected)


def test_scales_in_bfloat16_lose_nothing() -> None:
    """Those of small weights are too small for float16's whole precision."""
    plain = quantized(values(64), 4, 32, True)
    scales = torch.from_numpy(plain.scales).to(torch.bfloat16)
    for factor, kept in ((1.0, torch.float16), (2.0**-18, torch.float32)):
        parts = packed(plain) | {"weight_scale": scales * factor}
        found = matrix(compressed(4, 32), parts)
        assert found.scales.dtype == kept
        expected = Codes(plain.codes, (scales.float() * factor).numpy(), plain.zeros, plain.group_of, 4)
        np.testing.assert_array_equal(found.dequantize().numpy(), expected.values())
