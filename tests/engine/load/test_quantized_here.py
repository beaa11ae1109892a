"""`--quant`: what is quantized as it is loaded, by which rule; the model then computes with just that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoint import prompt, reference, save_checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from engine.load.checkpoint import inspect
from engine.load.choose import choose, quantize_by
from engine.load.errors import BadSpec, DoesNotFit, ModelError
from engine.load.foresee import foresee
from engine.load.model import load_model
from engine.load.plan import plan_of
from engine.nn.quant_modules import Holder
from engine.nn.quantized import Quantized
from engine.nn.rounding import GROUPS, round_matrix
from engine.protocol import ModelSpec
from engine.protocol.quant import parse_quant
from engine.runtime.assemble import fitting
from engine.runtime.create import create
from engine.runtime.pages import PAGE
from engine.runtime.sequence import Sequence
from profiles.catalogue import find
from profiles.detect import Settings, detect

PROMPT = prompt(PAGE + 5)
CPU = Settings("cpu", "fp32", 1)
FAMILIES = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "qwen3_moe",
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
)
BITS = {"s8": 8, "u4": 4}


def loaded(folder: Path, quant: str) -> Any:
    checkpoint = inspect(folder)
    plan = plan_of(parse_quant(quant), bool(checkpoint.config.tie_word_embeddings), "")
    return load_model(checkpoint, "fp32", "cpu", "eager", lambda *_: None, quantize_by(plan))


def matrices(model: torch.nn.Module) -> Iterator[tuple[str, Quantized]]:
    """Each quantized matrix by the name of the parameter whose place it has."""
    for path, module in model.named_modules():
        if isinstance(module, Holder):
            yield f"{path}.{module.parameter}".removesuffix("."), module.matrix


def kinds(folder: Path, quant: str) -> dict[str, str]:
    return {name: matrix.kind for name, matrix in matrices(loaded(folder, quant))}


def twin(folder: Path, model: Any) -> Any:
    """transformers' own model, with the values that the quantized matrices stand for."""
    dense = reference(folder)
    parameters = dict(dense.named_parameters(remove_duplicate=False))
    for name, matrix in matrices(model):
        values, parameter = matrix.dequantize(), parameters[name]
        parameter.data.copy_(values if values.shape == parameter.shape else values.mT)
        if getattr(dense.get_submodule(name.rpartition(".")[0]), "is_transposed", False):
            parameter.data.copy_(values.mT)
    return dense


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("model"), request.param)


@pytest.mark.parametrize("quant", ["int8", "int4", "fp8"])
@torch.inference_mode()
def test_a_model_computes_with_the_values_that_its_codes_stand_for(folder: Path, quant: str) -> None:
    model = loaded(folder, quant)
    assert len(list(matrices(model))) >= 4 * 5
    ids = torch.tensor([PROMPT])
    difference = model(ids).logits - twin(folder, model)(ids).logits
    assert difference.abs().max() < 2e-4


@pytest.mark.parametrize("quant", ["int8", "int4", "fp8"])
def test_over_pages_it_writes_what_transformers_writes_with_these_values(folder: Path, quant: str) -> None:
    expected = twin(folder, loaded(folder, quant)).generate(
        torch.tensor([PROMPT]), max_new_tokens=10, min_new_tokens=10, do_sample=False, eos_token_id=None
    )
    backend = create(ModelSpec(model=str(folder), draft="off", quant=quant), detect().profile, CPU)
    held = Sequence(backend.runner.pool) if hasattr(backend.runner.pool, "grow") else None
    if held is None:  # on transformers' own cache: its path is compared above
        backend.close()
        return
    backend.runner.forward(held, PROMPT)
    tokens = [int(held.logits.argmax())]
    while len(tokens) < 10:
        backend.runner.forward(held, [tokens[-1]])
        tokens.append(int(held.logits.argmax()))
    backend.runner.pool.release(held.table)
    backend.close()
    assert tokens == expected[0, len(PROMPT) :].tolist()
    assert len(set(tokens)) > 3


@pytest.mark.parametrize("kind", ["s8", "u4"])
def test_rounding_leaves_less_error_than_scales_from_the_largest_values(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(48, 256, generator=generator)
    values[:, ::37] *= 6  # outliers
    rounded = round_matrix(values, kind)  # type: ignore[arg-type]
    top = 2 ** (BITS[kind] - 1) - 1
    groups = values.unflatten(-1, (-1, GROUPS[kind]))  # type: ignore[index]
    scale = groups.abs().amax(-1, keepdim=True) / top
    naive = ((groups / scale).round() * scale).flatten(-2)
    errors = [float((found - values).square().sum()) for found in (rounded.dequantize(), naive)]
    assert errors[0] < {"s8": 0.9, "u4": 0.75}[kind] * errors[1]


def test_float8_rounds_each_value_to_its_nearest_code() -> None:
    values = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    found = round_matrix(values, "f8").dequantize()
    # three bits of mantissa: half of the last is 1/16 of the value, or absolute below the smallest exponent
    least = values.abs().amax(-1, keepdim=True) / 448 * 2**-10
    assert bool(((found - values).abs() <= values.abs() / 16 + least).all())


def test_groups_of_nothing_but_zeros_stay_zeros() -> None:
    for kind in ("s8", "u4", "f8"):
        assert not round_matrix(torch.zeros(4, 64), kind).dequantize().any()  # type: ignore[arg-type]


def test_head_and_tied_embedding_take_eight_bits_and_routers_and_norms_stay(tmp_path: Path) -> None:
    tied = kinds(save_checkpoint(tmp_path / "tied", "qwen3_moe", tie_word_embeddings=True), "int4")
    untied = kinds(save_checkpoint(tmp_path / "untied", "qwen3_moe"), "int4")
    assert tied["model.embed_tokens.weight"] == tied["lm_head.weight"] == "s8"
    assert (untied["model.embed_tokens.weight"], untied["lm_head.weight"]) == ("u4", "s8")
    assert tied["model.layers.0.mlp.experts.gate_up_proj"] == "u4"
    assert not [name for name in {**tied, **untied} if "norm" in name or "mlp.gate." in name]


def test_exceptions_go_by_the_path_of_a_parameter_and_the_last_one_counts(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "llama")
    found = kinds(folder, "int4,down_proj=int8,layers.0.*=none,lm_head=fp8,layers.0.mlp.down_proj=fp8")
    assert found["model.layers.1.mlp.down_proj.weight"] == "s8"
    assert found["model.layers.1.mlp.up_proj.weight"] == "u4"
    assert found["model.layers.0.mlp.down_proj.weight"] == found["lm_head.weight"] == "f8"
    assert "model.layers.0.mlp.up_proj.weight" not in found


def test_only_what_is_excepted_can_be_quantized_too(tmp_path: Path) -> None:
    found = kinds(save_checkpoint(tmp_path / "model", "llama"), "none,*.mlp.*=int4")
    assert len(found) == 3 * 4 and set(found.values()) == {"u4"}


def test_what_is_too_narrow_for_groups_stays_as_it_is(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "llama", hidden_size=40, intermediate_size=96, head_dim=10)
    found = kinds(folder, "int4")
    assert set(found) == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(4)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named_in_one_line(tmp_path: Path, value: float) -> None:
    folder = save_checkpoint(tmp_path / "model", "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        loaded(folder, "int4")
    assert (
        "model.layers.1.mlp.up_proj" in caught.value.message and "not finite numbers" in caught.value.message
    )
    assert "\n" not in caught.value.message


def test_a_checkpoint_that_is_quantized_already_is_not_quantized_again(tmp_path: Path) -> None:
    plain = foresee(inspect(save_checkpoint(tmp_path / "model", "llama")))
    foreseen = replace(plain, quantization="gptq 4-bit g128")
    with pytest.raises(ModelError, match=r"quantized already \(gptq 4-bit g128\)"):
        choose("int8", detect().profile, foreseen, 4, 10**9)
    assert not choose("auto", detect().profile, foreseen, 4, 10**9)
    assert not choose(None, replace(detect().profile, quant="int8"), foreseen, 4, 10**9)


def test_auto_takes_the_most_exact_that_such_hardware_and_its_memory_have_room_for(tmp_path: Path) -> None:
    foreseen = foresee(inspect(save_checkpoint(tmp_path / "model", "llama", hidden_size=256, head_dim=64)))
    dense = 4 * foreseen.parameters
    laptop, server = find("laptop-ddr5"), find("h100-sxm")

    def bases(profile: Any, *frees: float) -> list[str]:
        plans = [choose("auto", profile, foreseen, 4, round(free * dense)) for free in frees]
        return [plan.name for plan in plans]

    assert bases(laptop, 9, 0.4, 0.2) == ["int8", "int8", "int4"]
    assert bases(server, 9, 0.9, 0.2) == ["none", "int8", "int4"]
    reason = choose("auto", laptop, foreseen, 4, round(0.2 * dense)).reason
    assert "what the memory has room for" in reason


def test_a_profile_says_how_weights_are_kept_where_nothing_else_is_asked_for(tmp_path: Path) -> None:
    foreseen = foresee(inspect(save_checkpoint(tmp_path / "model", "llama")))
    profile = replace(detect().profile, id="mine", quant="int4,lm_head=none")
    plan = choose(None, profile, foreseen, 4, 10**12)
    assert (plan.name, plan.reason) == ("int4,lm_head=none", "as the profile mine says")
    assert not choose("none", profile, foreseen, 4, 10**12)
    with pytest.raises(BadSpec, match="int5"):
        choose(None, replace(profile, quant="int5"), foreseen, 4, 10**12)


def test_a_model_too_big_for_the_memory_is_refused_with_what_would_fit(tmp_path: Path) -> None:
    checkpoint = inspect(save_checkpoint(tmp_path / "model", "llama", hidden_size=256, head_dim=64))
    dense = sum(4 * torch.Size(shape).numel() for shape in checkpoint.source.plain.values())
    for free, hint in ((0.5, "--quant int8"), (0.2, "--quant int4"), (0.05, "a smaller model")):
        with pytest.raises(DoesNotFit) as caught:
            fitting(checkpoint, None, detect().profile, "fp32", round(free * dense))
        assert hint in caught.value.hint
    assert fitting(checkpoint, "int4", detect().profile, "fp32", round(0.2 * dense))[1].name == "int4"


def test_what_was_chosen_why_and_in_what_bytes_is_told(tmp_path: Path) -> None:
    folder = save_checkpoint(
        tmp_path / "model", "llama", tie_word_embeddings=True, hidden_size=128, head_dim=32
    )
    plain = create(ModelSpec(model=str(folder)), detect().profile, CPU)
    few = create(ModelSpec(model=str(folder), quant="int4,down_proj=int8"), detect().profile, CPU)
    assert few.info.weights == "int4,down_proj=int8"
    assert few.info.quantization == "int4,down_proj=int8 (as asked for): 5 × s8-g32, 16 × u4-g32, 8 × u4-g64"
    assert (plain.info.weights, plain.info.quantization) == ("fp32", None)
    assert few.info.parameters == plain.info.parameters
    assert few.info.weight_bytes < 0.25 * plain.info.weight_bytes
    held = plain.shape.weight_bytes, few.shape.weight_bytes, few.shape.head_bytes
    assert held[0] == 4 and 0.53 < held[1] < 0.85 and held[2] == 1 + 2 / 32
    plain.close(), few.close()


SCRIPT = """
import re, sys
from pathlib import Path
import psutil
from engine.load.checkpoint import inspect
from engine.load.choose import quantize_by
from engine.load.model import load_model
from engine.load.plan import plan_of
from engine.protocol.quant import parse_quant

checkpoint = inspect(Path(sys.argv[1]))
quantize = quantize_by(plan_of(parse_quant("int4"), True, ""))
before = psutil.Process().memory_info().rss
load_model(checkpoint, "fp32", "cpu", "sdpa", lambda *_: None, quantize)
# of this program alone: ru_maxrss counts what the one that started it had
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) * 1024 - before)
"""


def test_the_peak_of_quantizing_stays_near_the_quantized_size(tmp_path: Path) -> None:
    """Above the codes: one matrix's values, what the search makes of them, and the code that is imported."""
    settings = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 10, "head_dim": 64}
    config = AutoConfig.for_model("llama", vocab_size=256, tie_word_embeddings=True, **settings)
    config.num_attention_heads = config.num_key_value_heads = 16
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(
        tmp_path, max_shard_size="32MB"
    )
    files = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    quantized = files * 4.5 / 16
    assert files > 300e6
    assert quantized < int(ran.stdout) < 1.1 * files, "in float32 the values would take twice the files"


def test_the_config_of_a_quantized_model_is_left_as_it_was(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "llama")
    before = json.loads((folder / "config.json").read_text())
    assert not hasattr(loaded(folder, "int8").config, "quantization_config")
    assert json.loads((folder / "config.json").read_text()) == before


@pytest.mark.parametrize(
    ("quant", "pattern", "meant"),
    [
        ("int4,down_prj=int8", "down_prj", "down_proj"),
        ("int8,*.mlp.up_prj=none,lm_head=none", "*.mlp.up_prj", "up_proj"),
        ("none,norm=int8", "norm", "up_proj"),
        ("auto,layers.9.*=none", "layers.9.*", "up_proj"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_names_that_could_be_meant(
    tmp_path: Path, quant: str, pattern: str, meant: str
) -> None:
    folder = save_checkpoint(tmp_path / "model", "llama")
    with pytest.raises(BadSpec) as caught:
        create(ModelSpec(model=str(folder), quant=quant), detect().profile, CPU)
    assert repr(pattern) in str(caught.value) and meant in caught.value.hint
    profile = replace(detect().profile, quant=quant)
    create(ModelSpec(model=str(folder)), profile, CPU).close()  # a profile is for models of all kinds
