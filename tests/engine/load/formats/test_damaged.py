"""A damaged quantized checkpoint gives one line with file and cause, and leaves nothing in memory."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_checkpoint import WEIGHTS, Parts, Write, awq, float8, from_codes, gptq, packed, save_pair
from safetensors.torch import load_file, save_file

from engine.load.checkpoint import inspect
from engine.load.errors import ModelError
from engine.load.model import load_model

MATRIX = "model.layers.1.mlp.down_proj"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {
            "weights": {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32},
        }
    },
}
FORMATS: dict[str, tuple[dict[str, Any], Write]] = {
    "gptq": (GPTQ, from_codes(gptq, group=32, ordered=1)),
    "awq": ({"quant_method": "awq", "group_size": 32}, from_codes(awq, group=32)),
    "compressed-tensors": (COMPRESSED, from_codes(packed, group=32, ordered=1)),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [32, 32]},
        lambda _, values: float8(values, (32, 32), "weight_scale_inv"),
    ),
}
Change = Callable[[torch.Tensor], torch.Tensor | None]


def without(_: torch.Tensor) -> None:
    """The part is gone."""


def shorter(part: torch.Tensor) -> torch.Tensor:
    return part[..., :-1].contiguous()


def halved(part: torch.Tensor) -> torch.Tensor:
    return part[: len(part) // 2].contiguous()


def not_a_number(part: torch.Tensor) -> torch.Tensor:
    part.view(-1)[3] = torch.nan
    return part


def too_far(part: torch.Tensor) -> torch.Tensor:
    part[7] = 1000
    return part


def negative(part: torch.Tensor) -> torch.Tensor:
    part[7] = -2
    return part


def as_floats(part: torch.Tensor) -> torch.Tensor:
    return part.float()


DAMAGES: list[tuple[str, str, Change, str]] = [
    ("gptq", "scales", without, "no scales"),
    ("gptq", "qzeros", without, "no qzeros"),
    ("gptq", "g_idx", without, "no g_idx"),
    ("gptq", "qweight", without, "no qweight"),
    ("gptq", "qweight", halved, "scales has the shape"),
    ("gptq", "qweight", shorter, "scales has the shape"),
    ("gptq", "qweight", as_floats, "qweight is torch.float32"),
    ("gptq", "scales", halved, "scales has the shape (2, 64) instead of (4, 64)"),
    ("gptq", "scales", not_a_number, "not a finite number"),
    ("gptq", "qzeros", shorter, "qzeros has the shape (4, 7) instead of (4, 8)"),
    ("gptq", "g_idx", too_far, "groups 0 to 1000, there are scales for 4"),
    ("gptq", "g_idx", negative, "groups -2 to 3, there are scales for 4"),
    ("gptq", "g_idx", halved, "g_idx has the shape (64,) instead of (128,)"),
    ("awq", "qzeros", without, "no qzeros"),
    ("awq", "qweight", halved, "scales has the shape"),
    ("awq", "scales", shorter, "scales has the shape (4, 63) instead of (4, 64)"),
    ("awq", "scales", not_a_number, "not a finite number"),
    ("compressed-tensors", "weight_scale", without, "no weight_scale"),
    ("compressed-tensors", "weight_packed", without, "no weight"),
    ("compressed-tensors", "weight_shape", without, "no weight_shape"),
    ("compressed-tensors", "weight_zero_point", without, "no weight_zero_point"),
    ("compressed-tensors", "weight_packed", shorter, "(64, 15) instead of (64, 16)"),
    ("compressed-tensors", "weight_scale", shorter, "(64, 3) instead of (64, 4)"),
    ("compressed-tensors", "weight_scale", not_a_number, "not a finite number"),
    ("compressed-tensors", "weight_g_idx", too_far, "groups 0 to 1000"),
    ("fp8", "weight_scale_inv", shorter, "(2, 3) instead of (2, 4)"),
    ("fp8", "weight_scale_inv", not_a_number, "not a finite number"),
    ("fp8", "weight", without, "no weight"),
    ("fp8", "weight", as_floats, "weight is torch.float32"),
]


def load(folder: Path) -> Any:
    return load_model(inspect(folder), "fp32", "cpu", "sdpa", lambda *_: None)


def tensors() -> int:
    """How many bytes of tensors are alive."""
    gc.collect()
    found = (part for part in gc.get_objects() if issubclass(type(part), torch.Tensor))
    return sum(
        {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in found}.values()
    )


def refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in caught.value.message and caught.value.message.startswith(str(folder))
    return caught.value


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A fresh copy of a checkpoint in order, by format and family."""
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, family: str = "llama") -> Path:
        if (name, family) not in made:
            config, write = FORMATS[name]
            made[name, family] = save_pair(
                tmp_path_factory.mktemp(name), family, write, config, num_hidden_layers=2
            ).quantized
            load(made[name, family])
        return made[name, family]

    return get


def changed(folder: Path, source: Path, change: Callable[[Parts], None]) -> Path:
    """A copy of a checkpoint with other tensors."""
    parts = load_file(source / WEIGHTS)
    change(parts)
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(parts, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("name", "part", "change", "mention"), DAMAGES)
def test_a_matrix_whose_parts_do_not_fit_is_named(
    saved: Callable[[str], Path], tmp_path: Path, name: str, part: str, change: Change, mention: str
) -> None:
    def damage(parts: Parts) -> None:
        found = change(parts.pop(f"{MATRIX}.{part}"))
        if found is not None:
            parts[f"{MATRIX}.{part}"] = found

    source = saved(name)
    folder = changed(tmp_path / "damaged", source, damage)
    before = tensors()
    error = refused(folder)
    assert MATRIX in error.message and mention in error.message, error.message
    assert error.hint
    del error
    assert tensors() == before, "nothing of the model that failed to load is left"


def test_an_expert_that_lacks_a_part_is_named_and_a_whole_model_loads_afterwards(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    source = saved("gptq", "mixtral")
    expert = "model.layers.1.block_sparse_moe.experts.2.w3"
    folder = changed(tmp_path / "damaged", source, lambda parts: parts.pop(f"{expert}.scales"))
    assert f"{expert} is not gptq 4-bit g32: it has no scales" in refused(folder).message
    load(source)


def test_an_expert_that_is_missing_is_an_error(saved: Callable[..., Path], tmp_path: Path) -> None:
    def damage(parts: Parts) -> None:
        for name in list(parts):
            if "layers.1.block_sparse_moe.experts.3.w3." in name:
                del parts[name]

    error = refused(changed(tmp_path / "damaged", saved("gptq", "mixtral"), damage))
    assert "layers.1.mlp.experts.gate_up_proj: its parts make no whole" in error.message


def test_a_matrix_in_the_place_of_another_is_an_error(saved: Callable[..., Path], tmp_path: Path) -> None:
    def damage(parts: Parts) -> None:
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            parts[f"{MATRIX}.{part}"] = parts[f"model.layers.1.mlp.up_proj.{part}"].clone()

    error = refused(changed(tmp_path / "damaged", saved("gptq"), damage))
    assert f"{MATRIX}.weight: it has the shape (128, 64) instead of (64, 128)" in error.message


def test_a_plain_tensor_of_another_shape_beside_quantized_ones_is_an_error(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    def damage(parts: Parts) -> None:
        parts["lm_head.weight"] = parts["lm_head.weight"].t().contiguous()

    error = refused(changed(tmp_path / "damaged", saved("gptq"), damage))
    assert "lm_head.weight: it has the shape (64, 288) instead of (288, 64)" in error.message


def test_a_checkpoint_that_only_says_that_it_is_quantized_is_an_error(
    saved: Callable[..., Path], tmp_path: Path
) -> None:
    source = saved("gptq")
    dense = source.parent / "dense"
    folder = changed(tmp_path / "damaged", dense, lambda _: None)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    assert "says gptq 4-bit g32, but no tensor is quantized so" in refused(folder).message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>Sign in</title>")


@pytest.mark.parametrize(
    ("damage", "mention"), [(cut, "truncated"), (web_page, "web page"), (Path.unlink, "lacks the shard")]
)
def test_a_damaged_shard_is_named(
    saved: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], None], mention: str
) -> None:
    source, folder = saved("gptq"), tmp_path / "sharded"
    folder.mkdir()
    parts = load_file(source / WEIGHTS)
    names = sorted(parts)
    weight_map = {name: f"model-{place % 2}.safetensors" for place, name in enumerate(names)}
    for shard in set(weight_map.values()):
        members = {name: parts[name] for name in names if weight_map[name] == shard}
        save_file(members, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    load(folder)  # the parts of a matrix lie in different shards
    damage(folder / "model-1.safetensors")
    error = refused(folder)
    assert mention in error.message and "model-1.safetensors" in error.message


UNREAD: dict[str, dict[str, Any]] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "an unknown method": {"bits": 4},
    "gptq with 5 bits": {**GPTQ, "bits": 5},
    "bits '4'": {**GPTQ, "bits": "4"},
    "group_size 0": {**GPTQ, "group_size": 0},
    "layout 'marlin'": {**GPTQ, "checkpoint_format": "marlin"},
    "gptq with 6 bits": {**GPTQ, "dynamic": {"+:.*": {"bits": 6}}},
    "dynamic [1]": {**GPTQ, "dynamic": [1]},
    "layout 'gemv'": {"quant_method": "awq", "version": "gemv"},
    "layout 'GEMV_FAST'": {"quant_method": "awq", "version": "GEMV_FAST"},
    "layout 'llm-awq'": {"quant_method": "awq", "backend": "llm-awq"},
    "awq with 8 bits": {"quant_method": "awq", "bits": 8},
    "layout 'marlin-24'": {**COMPRESSED, "format": "marlin-24"},
    "layout 'nvfp4-pack-quantized'": {**COMPRESSED, "format": "nvfp4-pack-quantized"},
    "layout 'mxfp4-pack-quantized'": {**COMPRESSED, "format": "mxfp4-pack-quantized"},
    "3-bit int": {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 3}}}},
    "sparsity_config": {**COMPRESSED, "sparsity_config": {"format": "sparse-24-bitmask"}},
    "transform_config": {**COMPRESSED, "transform_config": {"config_groups": {"u": {}}}},
    "without config_groups": {"quant_method": "compressed-tensors"},
    "number format 'e5m2'": {"quant_method": "fp8", "fmt": "e5m2"},
    "block of [128]": {"quant_method": "fp8", "weight_block_size": [128]},
}


@pytest.mark.parametrize("mention", UNREAD)
def test_what_is_not_read_is_named_with_what_to_do(
    saved: Callable[..., Path], tmp_path: Path, mention: str
) -> None:
    folder = changed(tmp_path / "unread", saved("gptq"), lambda _: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": UNREAD[mention]}))
    error = refused(folder)
    assert mention in error.message and "does not read" in error.message, error.message
    assert "gptq, awq, compressed-tensors, fp8, a GGUF file, or the unquantized model" in error.hint
