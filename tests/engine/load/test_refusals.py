"""A model that cannot be loaded gives one line that names the file and the cause, before loading."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoint import FAMILIES, save_checkpoint
from safetensors.torch import load_file, save_file

from engine.load.checkpoint import inspect
from engine.load.errors import DoesNotFit, ModelError
from engine.load.locate import locate
from engine.protocol import ModelSpec
from engine.runtime.create import create
from profiles.detect import Settings, detect

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NESTED = b"[" * 200_000
MATRIX = "model.layers.0.mlp.up_proj.weight"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in order, to be damaged."""
    return save_checkpoint(tmp_path / "model")


def load(folder: Path, **spec: Any) -> None:
    create(ModelSpec(model=str(folder), **spec), detect().profile, Settings("cpu", "fp32", 1)).close()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def split(folder: Path) -> None:
    """Spread the weights over two shards with an index."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / WEIGHTS).unlink()


def resized(path: Path, by: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:by] if by < 0 else data + bytes(by))


def lose_a_shard(folder: Path) -> None:
    split(folder)
    next(folder.glob("model-00002*")).unlink()


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def only_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def leave_the_folder(folder: Path) -> None:
    split(folder)
    change(folder / INDEX, weight_map={"lm_head.weight": "../elsewhere.safetensors"})


def corrupt_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 12) + b"{not json at")


def edit_header(folder: Path, name: str, **values: Any) -> None:
    """Change what the header says of a tensor; the bytes stay as they are."""
    data = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header[name].update(values)
    changed = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(changed)) + changed + data[end:])


def nest_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(NESTED)) + NESTED)


def nest_index(folder: Path) -> None:
    split(folder)
    (folder / INDEX).write_bytes(NESTED)


def reshape(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].t().contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def quantize_a_part(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.1.mlp.up_proj.qweight"] = torch.zeros((8, 128), dtype=torch.int32)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    change(folder / "config.json", quantization_config=GPTQ)


DAMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json",)),
    "config is not JSON": (
        lambda f: (f / "config.json").write_text("<html>"),
        ("config.json", "not valid JSON"),
    ),
    "config is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        ("config.json", "not a JSON object"),
    ),
    "unknown architecture": (
        lambda f: change(f / "config.json", model_type="hal9000"),
        ("config.json", "hal9000"),
    ),
    "impossible value": (lambda f: change(f / "config.json", hidden_size="many"), ("config.json",)),
    "odd heads": (lambda f: change(f / "config.json", num_key_value_heads=3), ("config.json",)),
    "remote code": (
        lambda f: change(f / "config.json", model_type="own", auto_map={"AutoModelForCausalLM": "own.Model"}),
        ("config.json", "auto_map"),
    ),
    "quantized": (
        lambda f: change(f / "config.json", quantization_config={"quant_method": "squeezellm", "bits": 4}),
        ("config.json", "squeezellm"),
    ),
    "quantized to 5 bits": (
        lambda f: change(f / "config.json", quantization_config={**GPTQ, "bits": 5}),
        ("config.json", "gptq with 5 bits"),
    ),
    "quantized in name only": (
        lambda f: change(f / "config.json", quantization_config=GPTQ),
        ("config.json", "gptq 4-bit g32", "no tensor is quantized so"),
    ),
    "quantized without its zeros": (quantize_a_part, ("model.layers.1.mlp.up_proj", "no qzeros")),
    "truncated shard": (lambda f: resized(f / WEIGHTS, -1000), (WEIGHTS, "truncated")),
    "truncated header": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:50]),
        (WEIGHTS, "truncated"),
    ),
    "trailing bytes": (lambda f: resized(f / WEIGHTS, 10), (WEIGHTS, "corrupt")),
    "corrupt header": (corrupt_header, (WEIGHTS, "corrupt")),
    "nested header": (nest_header, (WEIGHTS, "corrupt")),
    "nested index": (nest_index, (INDEX, "not a readable index")),
    "endless tensor": (
        lambda f: edit_header(f, MATRIX, data_offsets=[0, float("inf")]),
        (WEIGHTS, "corrupt: its header"),
    ),
    "another dtype": (lambda f: edit_header(f, MATRIX, dtype="F16"), (WEIGHTS, "corrupt", MATRIX)),
    "another shape": (lambda f: edit_header(f, MATRIX, shape=[64, 3]), (WEIGHTS, "corrupt", MATRIX)),
    "a shape below zero": (
        lambda f: edit_header(f, MATRIX, shape=[-128, -64]),
        (WEIGHTS, "corrupt", MATRIX),
    ),
    "a tensor before the first": (
        lambda f: edit_header(f, MATRIX, dtype="other", data_offsets=[-4, 0]),
        (WEIGHTS, "corrupt", MATRIX),
    ),
    "empty file": (lambda f: (f / WEIGHTS).write_bytes(b""), (WEIGHTS, "not a safetensors file")),
    "web page": (lambda f: (f / WEIGHTS).write_text("<!DOCTYPE html><p>Sign in"), (WEIGHTS, "web page")),
    "pointer": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        (WEIGHTS, "Git LFS pointer"),
    ),
    "only pickle": (only_pickle, ("pytorch_model.bin", "pickle")),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), (WEIGHTS, INDEX)),
    "missing shard": (lose_a_shard, ("model-00002-of-00002.safetensors",)),
    "shard outside": (leave_the_folder, (INDEX, "../elsewhere.safetensors")),
    "index is not JSON": (lambda f: (f / INDEX).write_text("{"), (INDEX,)),
    "missing tensor": (lose_a_tensor, ("model.layers.1.mlp.up_proj.weight",)),
    "wrong shape": (reshape, (MATRIX, "shape (64, 128) instead of (128, 64)")),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ("tokenizer.json",)),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), ("tokenizer.json",)),
    "steps are words": (lambda f: (f / "mull.json").write_text('{"think_steps": ["few"]}'), ("mull.json",)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_one_line_with_file_and_cause(
    folder: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    load(folder)
    break_it, mentions = DAMAGES[damage]
    break_it(folder)
    capfd.readouterr()
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in caught.value.message
    assert all(mention in caught.value.message for mention in mentions), caught.value.message
    assert capfd.readouterr() == ("", ""), "nothing but the error speaks"


ELSEWHERE: dict[str, tuple[dict[str, Any], str]] = {
    "encoder-decoder": ({"model_type": "t5"}, "t5"),
    "recurrent": ({"model_type": "mamba"}, "recurrent"),
    "linear attention": ({"model_type": "qwen3_next"}, "qwen3_next"),
    "latent attention": ({"model_type": "minicpm3"}, "MLA"),
    "multimodal": ({"model_type": "gemma3"}, "multimodal"),
    "no text": ({"model_type": "vit"}, "not a model that writes text"),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_architecture_that_cannot_page_is_refused(tmp_path: Path, kind: str) -> None:
    config, mention = ELSEWHERE[kind]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=mention):
        inspect(tmp_path)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"259 tokens, the model's vocabulary only 64"):
        load(save_checkpoint(tmp_path, vocab_size=64))


def test_a_context_that_the_model_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="1024"):
        load(folder, context=4096)


def test_a_cache_larger_than_its_share_of_the_memory_does_not_fit(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, max_position_embeddings=1 << 40, num_hidden_layers=1)
    with pytest.raises(DoesNotFit, match="context"):
        load(folder, context=1 << 38)


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(ModelError, match=device):
            load(folder, device=device)


def test_sharded_weights_load(folder: Path) -> None:
    split(folder)
    load(folder)


def test_progress_reports_every_byte(folder: Path) -> None:
    seen: list[tuple[int | None, int | None]] = []
    create(
        ModelSpec(model=str(folder)),
        detect().profile,
        Settings("cpu", "fp32", 1),
        lambda _, done, total: seen.append((done, total)),
    ).close()
    sizes = [done for done, _ in seen if done is not None]
    total = sum(inspect(folder).source.sizes.values())
    assert sizes == sorted(sizes) and len(set(sizes)) > 10
    assert seen[-1] == (total, total)
    assert total in sizes[:-1], "the last tensor was counted too"


def test_keys_that_steer_transformers_own_machinery_or_name_foreign_code_are_ignored(folder: Path) -> None:
    steering = {"_attn_implementation": "evil/kernel", "_attn_implementation_internal": "evil/kernel"}
    change(folder / "config.json", **steering, auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert "evil" not in str(vars(inspect(folder).config))
    load(folder)


@pytest.mark.parametrize(
    ("name", "mention"),
    [
        ("nothing", "neither bundled"),
        ("owner/absent", "not in the local Hugging Face cache"),
        ("./absent", "neither bundled"),
        ("a" * 5000, "path"),
        ("nul\0", "neither bundled"),
        ("~nobody-of-that-name/model", "path"),
        ("", "config.json"),
    ],
    ids=["word", "repository", "folder", "too long", "nul", "unknown home", "empty"],
)
def test_a_name_that_leads_nowhere_gives_one_line(
    name: str, mention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=mention) as caught:
        locate(name)
    assert caught.value.hint and "\n" not in caught.value.message


def test_a_repository_is_found_in_the_cache_that_hf_home_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "huggingface"
    repository = home / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / ("a" * 40)
    save_checkpoint(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    assert locate("owner/name") == snapshot
    with pytest.raises(ModelError, match="file, not a model folder"):
        locate(str(snapshot / "config.json"))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_passes_the_checks(tmp_path: Path, family: str) -> None:
    assert inspect(save_checkpoint(tmp_path, family)).shape.layers == 4
