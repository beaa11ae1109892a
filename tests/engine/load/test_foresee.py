"""What is said of a model before it is read is what loading it comes to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import write_gguf
from quantized_checkpoint import Parts, Write, awq, float8, from_codes, gptq, packed, quantized, save_pair
from random_checkpoint import prompt, reference, save_checkpoint
from safetensors.torch import load_file, save_file

from engine.catalog.contents import read_contents
from engine.load import model as loading
from engine.load.checkpoint import inspect
from engine.load.choose import quantize_by
from engine.load.errors import ModelError
from engine.load.foresee import foresee
from engine.load.model import load_model
from engine.load.plan import plan_of
from engine.nn.sizes import sizes_of
from engine.protocol import ModelSpec
from engine.protocol.quant import parse_quant
from engine.runtime.create import create
from profiles.detect import Settings, detect

FAMILIES = (
    *("llama", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gemma2", "gemma3_text", "gpt2", "gpt_neox"),
    *("olmo2", "phi3", "gpt_oss", "deepseek_v3", "lfm2"),
)
WEIGHTS = "model.safetensors"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
MATRIX = "model.layers.1.mlp.up_proj.weight"


def held(path: Path, quant: str) -> tuple[int, int]:
    """Bytes of the weights as foreseen, and as loaded."""
    checkpoint = inspect(path)
    plan = plan_of(parse_quant(quant), bool(checkpoint.config.tie_word_embeddings), "")
    expected = foresee(checkpoint).memory(plan, 4)
    quantize = quantize_by(plan) if plan else None
    return expected, sizes_of(
        load_model(checkpoint, "fp32", "cpu", "eager", lambda *_: None, quantize)
    ).nbytes


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_takes_the_bytes_that_were_foreseen(
    tmp_path: Path, family: str, tied: bool, quant: str
) -> None:
    expected, found = held(save_checkpoint(tmp_path, family, tie_word_embeddings=tied), quant)
    assert expected == found


def test_what_mull_ps_says_of_a_model_was_foreseen(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "gemma2", tie_word_embeddings=True)
    plan = plan_of(parse_quant("int4"), True, "")
    backend = create(ModelSpec(model=str(folder), quant="int4"), detect().profile, Settings("cpu", "fp32", 1))
    backend.close()
    assert foresee(inspect(folder)).memory(plan, 4) == backend.info.weight_bytes


FORMATS: dict[str, tuple[dict[str, Any], Write]] = {
    "gptq": (GPTQ, from_codes(gptq, group=32)),
    "gptq symmetric": ({**GPTQ, "sym": True}, from_codes(gptq, group=32, symmetric=True)),
    "gptq 2 bits": ({**GPTQ, "bits": 2, "desc_act": True}, from_codes(gptq, bits=2, group=32, ordered=1)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32}, from_codes(awq, group=32)),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [32, 32]},
        lambda _, values: float8(values, (32, 32), "weight_scale_inv"),
    ),
    "packed": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {
                "group_0": {
                    "weights": {
                        "num_bits": 4,
                        "type": "int",
                        "strategy": "group",
                        "group_size": 32,
                        "symmetric": False,
                    }
                }
            },
        },
        from_codes(packed, group=32, ordered=1),
    ),
}


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_quantized_checkpoint_takes_the_bytes_that_were_foreseen(
    tmp_path: Path, name: str, family: str
) -> None:
    config, write = FORMATS[name]
    changes = {"moe_intermediate_size": 64} if family == "qwen3_moe" else {}
    pair = save_pair(tmp_path, family, write, config, num_hidden_layers=2, **changes)
    expected, found = held(pair.quantized, "none")
    assert expected == found
    listed = read_contents(pair.quantized).memory(4)  # by the headers alone
    assert listed == pytest.approx(found, rel=0.02)


def test_matrices_that_must_become_dense_are_foreseen(tmp_path: Path) -> None:
    """Groups of unlike sizes, and an expert's two projections in different orders."""

    def uneven(name: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        matrix = quantized(values)
        if "down_proj" in name:
            matrix.group_of[:] = np.maximum(matrix.group_of - 1, 0)
        return gptq(matrix), matrix.values()

    def disordered(name: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        return from_codes(gptq, group=32, ordered=1 + name.count("up_proj"))(name, values)

    for family, write in (("llama", uneven), ("qwen3_moe", disordered)):
        changes = {"moe_intermediate_size": 64} if family == "qwen3_moe" else {}
        pair = save_pair(tmp_path / family, family, write, GPTQ, num_hidden_layers=2, **changes)
        expected, found = held(pair.quantized, "none")
        packed_all = foresee(inspect(pair.quantized)).quantized_bytes
        assert expected == found
        assert packed_all < 0.6 * sum(matrix.size for matrix in pair.matrices.values())


def test_gpt2_s_quantized_matrices_become_dense_and_are_foreseen_so(tmp_path: Path) -> None:
    """Their modules are no linears, and have inputs first; files in this format have outputs first."""

    def write(_: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        matrix = quantized(np.ascontiguousarray(values.T))
        return gptq(matrix), np.ascontiguousarray(matrix.values().T)

    only = re.compile(r"(c_attn|c_proj|c_fc)\.weight$")
    pair = save_pair(tmp_path, "gpt2", write, GPTQ, only)
    expected, found = held(pair.quantized, "none")
    assert expected == found
    model = load_model(inspect(pair.quantized), "fp32", "cpu", "eager", lambda *_: None)
    ids = torch.tensor([prompt(20)])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, reference(pair.dense)(ids).logits)


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q6_K"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
def test_a_gguf_takes_the_bytes_that_were_foreseen(tmp_path: Path, family: str, kind: str) -> None:
    wide = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 256, "moe_intermediate_size": 256}
    folder = save_checkpoint(tmp_path, family, tie_word_embeddings=family == "gemma2", **wide)
    expected, found = held(write_gguf(folder, tmp_path / "model.gguf", kind), "none")
    assert expected == found


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_head_that_is_stored_though_it_is_tied_counts_once_where_it_is_a_copy(
    tmp_path: Path, family: str, same: bool
) -> None:
    folder = save_checkpoint(tmp_path, family, tie_word_embeddings=True)
    tensors = load_file(folder / WEIGHTS)
    embedding = next(name for name in tensors if "embed_tokens" in name or "wte" in name)
    changed(folder, {"lm_head.weight": tensors[embedding] * (1 if same else 2)})
    for quant in ("none", "int8"):
        expected, found = held(folder, quant)
        assert expected == found
    model = load_model(inspect(folder), "fp32", "cpu", "eager", lambda *_: None)
    ids = torch.tensor([prompt(20)])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, reference(folder)(ids).logits)


def changed(folder: Path, changes: dict[str, torch.Tensor | None]) -> Path:
    """With other tensors, or without some."""
    tensors = {**load_file(folder / WEIGHTS), **changes}
    kept = {name: values.contiguous() for name, values in tensors.items() if values is not None}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def transposed(folder: Path) -> Path:
    return changed(folder, {MATRIX: load_file(folder / WEIGHTS)[MATRIX].t()})


def wider(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 160}))
    return folder


def lacking(folder: Path) -> Path:
    return changed(folder, {MATRIX: None})


def one_expert_narrow(folder: Path) -> Path:
    name = "model.layers.2.mlp.experts.3.down_proj.weight"
    return changed(folder, {name: load_file(folder / WEIGHTS)[name][:, :16]})


def an_expert_too_few(folder: Path) -> Path:
    names = [name for name in load_file(folder / WEIGHTS) if "layers.2.mlp.experts.3." in name]
    return changed(folder, dict.fromkeys(names))


WRONG = {
    "transposed": ("qwen3", transposed, (MATRIX, "(64, 128) instead of (128, 64)")),
    "another width": (
        "qwen3",
        wider,
        ("model.layers.0.mlp.down_proj.weight", "(64, 128) instead of (64, 160)"),
    ),
    "missing": ("qwen3", lacking, ("lacks 1", MATRIX)),
    "one expert": ("qwen3_moe", one_expert_narrow, ("layers.2.mlp.experts.down_proj",)),
    "an expert too few": (
        "qwen3_moe",
        an_expert_too_few,
        ("layers.2.mlp.experts.down_proj", "(3, 64, 32) instead of (4, 64, 32)"),
    ),
}


@pytest.mark.parametrize("quant", [None, "int8"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_tensor_that_does_not_fit_is_named_with_both_shapes_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, quant: str | None
) -> None:
    family, damage, mentions = WRONG[kind]
    folder = damage(save_checkpoint(tmp_path, family))
    monkeypatch.setattr(loading, "load_model", None)
    monkeypatch.setattr("engine.load.source.SafetensorsSource.open", None)
    with pytest.raises(ModelError) as caught:
        create(ModelSpec(model=str(folder), quant=quant), detect().profile, Settings("cpu", "fp32", 1))
    message = caught.value.message
    assert all(mention in message for mention in mentions) and "\n" not in message, message
    assert "ignore_mismatched_sizes" not in message and caught.value.hint


def test_a_gguf_of_another_shape_than_its_metadata_says_is_refused_so_too(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3")
    path = write_gguf(folder, tmp_path / "model.gguf", "F32", **{"qwen3.feed_forward_length": 160})
    with pytest.raises(
        ModelError, match=re.escape("down_proj.weight: it has the shape (64, 128) instead of")
    ):
        create(ModelSpec(model=str(path)), detect().profile, Settings("cpu", "fp32", 1))
