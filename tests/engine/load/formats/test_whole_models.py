"""A quantized checkpoint's model writes what transformers writes with the values that its codes stand for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_checkpoint import (
    Pair,
    Parts,
    Write,
    awq,
    bytes_,
    float8,
    from_codes,
    gptq,
    packed,
    quantized,
    save_pair,
)
from random_checkpoint import prompt, reference

from engine.load.checkpoint import inspect
from engine.load.model import load_model
from engine.nn.quant_modules import Holder
from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.pages import PAGE
from engine.runtime.sequence import Sequence
from profiles.detect import Settings, detect

PROMPT = prompt(PAGE + 9)
NEW = 12
TOLERANCE = 2e-4
CPU = Settings("cpu", "fp32", 1)


def weights(bits: int, kind: str = "int", **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": kind, "symmetric": False, **more}


def compressed(*groups: dict[str, Any]) -> dict[str, Any]:
    named = {f"group_{i}": {"targets": ["Linear"], "weights": group} for i, group in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": named}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
GROUP = {"strategy": "group", "group_size": 32}
FORMATS: dict[str, tuple[dict[str, Any], Write]] = {
    "gptq": (GPTQ, from_codes(gptq, group=32, ordered=1)),
    "gptq 3-bit": ({**GPTQ, "bits": 3, "desc_act": False}, from_codes(gptq, bits=3, group=32)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32}, from_codes(awq, group=32)),
    "packed": (compressed(weights(4, **GROUP)), from_codes(packed, group=32, ordered=1)),
    "bytes": (compressed(weights(8, strategy="channel")), from_codes(bytes_, bits=8, group=-1)),
    "float8": (
        compressed(weights(8, "float", strategy="channel", symmetric=True)),
        lambda _, values: float8(values, (1, values.shape[1]), "weight_scale"),
    ),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [32, 32]},
        lambda _, values: float8(values, (32, 32), "weight_scale_inv"),
    ),
}
MORE_EXPERTS = {"moe_intermediate_size": 64}  # two groups in each of a layer's matrices
CASES = [
    *((family, "gptq") for family in ("llama", "qwen2", "qwen3", "gemma2", "phi3")),
    *((family, name) for family in ("qwen3_moe", "mixtral") for name in FORMATS),
    *(("llama", name) for name in FORMATS if name != "gptq"),
]


def greedy(folder: Path) -> tuple[list[int], np.ndarray]:
    """The local backend's greedy tokens after the prompt and the logits that they were chosen from."""
    backend = create(ModelSpec(model=str(folder), draft="off"), detect().profile, CPU)
    held = Sequence(backend.runner.pool)
    backend.runner.forward(held, PROMPT)
    rows = [held.logits]
    while len(rows) < NEW:
        backend.runner.forward(held, [int(rows[-1].argmax())])
        rows.append(held.logits)
    backend.runner.pool.release(held.table)
    backend.close()
    return [int(row.argmax()) for row in rows], np.stack(rows)


def assert_writes_the_same(pair: Pair) -> None:
    out = reference(pair.dense).generate(
        torch.tensor([PROMPT]),
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    expected = out.sequences[0, len(PROMPT) :].tolist()
    assert len(set(expected)) > 3, "a reference that repeats itself proves little"
    tokens, logits = greedy(pair.quantized)
    assert tokens == expected
    assert np.abs(logits - torch.cat(out.logits).numpy()).max() < TOLERANCE


def loaded(pair: Pair) -> Any:
    return load_model(inspect(pair.quantized), "fp32", "cpu", "eager", lambda *_: None)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_its_text_and_logits_are_those_of_the_dense_model(tmp_path: Path, family: str, name: str) -> None:
    config, write = FORMATS[name]
    changes = MORE_EXPERTS if family == "qwen3_moe" else {}
    pair = save_pair(tmp_path, family, write, config, num_hidden_layers=2, **changes)
    held = [module for module in loaded(pair).modules() if isinstance(module, Holder)]
    assert sum(holder.matrix.elements for holder in held) == sum(m.size for m in pair.matrices.values())
    assert_writes_the_same(pair)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_projections_that_share_an_order_are_right(tmp_path: Path, family: str) -> None:
    """As desc_act has it for those with the same input, which are then computed as one."""

    def write(_: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        matrix = quantized(values, ordered=3)
        return gptq(matrix), matrix.values()

    assert_writes_the_same(save_pair(tmp_path, family, write, GPTQ, num_hidden_layers=2))


def test_an_experts_two_projections_in_different_orders_are_right(tmp_path: Path) -> None:
    def write(name: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        return from_codes(gptq, group=32, ordered=1 + name.count("up_proj"))(name, values)

    pair = save_pair(tmp_path, "qwen3_moe", write, GPTQ, num_hidden_layers=2, **MORE_EXPERTS)
    assert_writes_the_same(pair)


def test_experts_of_different_bits_are_right(tmp_path: Path) -> None:
    def write(name: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        matrix = quantized(values, 8 if "experts.1." in name else 4)
        return gptq(matrix), matrix.values()

    config = {**GPTQ, "desc_act": False, "dynamic": {r"+:.*experts\.1\.": {"bits": 8}}}
    assert_writes_the_same(save_pair(tmp_path, "mixtral", write, config, num_hidden_layers=2))


def test_experts_with_and_without_zeros_stay_quantized(tmp_path: Path) -> None:
    def write(name: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        matrix = quantized(values, symmetric="experts.1." in name)
        return gptq(matrix), matrix.values()

    pair = save_pair(tmp_path, "mixtral", write, {**GPTQ, "desc_act": False}, num_hidden_layers=2)
    experts = loaded(pair).model.layers[1].mlp.experts
    assert isinstance(experts.gate_up_proj, Holder) and isinstance(experts.down_proj, Holder)
    assert_writes_the_same(pair)


def test_a_quantized_head_and_modules_left_as_they_were_are_right(tmp_path: Path) -> None:
    only = re.compile(r"(?:q_proj|o_proj|gate_proj|down_proj|lm_head)\.weight$")
    config, write = FORMATS["gptq"]
    pair = save_pair(tmp_path, "llama", write, config, only, num_hidden_layers=2)
    model = loaded(pair)
    assert isinstance(model.lm_head, Holder) and not isinstance(model.model.layers[0].mlp.up_proj, Holder)
    assert_writes_the_same(pair)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_ordered_inputs_with_outliers_meet_their_own_columns(tmp_path: Path, family: str) -> None:
    """A few channels are 50 times the others, as in real models; before the MLP: no softmax adds to it."""

    def outliers(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("post_attention_layernorm.weight"):
                tensor[5::16] = 50.0

    config, write = FORMATS["gptq"]
    pair = save_pair(tmp_path, family, write, config, prepare=outliers, num_hidden_layers=2)
    assert_writes_the_same(pair)
