"""What the list of models says of one is what loading it comes to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import write_gguf
from random_checkpoint import save_checkpoint

from engine.catalog import models
from engine.catalog.contents import Contents, read_contents
from engine.load.checkpoint import inspect
from engine.load.errors import DoesNotFit, ModelError
from engine.protocol import ModelSpec
from engine.runtime.assemble import fitting
from engine.runtime.create import _context
from engine.runtime.pages import PAGE
from profiles.costs import kv_bytes_per_token
from profiles.detect import detect
from profiles.fit import BYTES, LEAST_CONTEXT, affordable_context, fit


@pytest.mark.parametrize("kind", ["folder", "F32", "BF16", "Q8_0", "Q5_1"])
def test_whether_and_with_what_context_a_model_fits_is_what_the_loader_finds(
    tmp_path: Path, kind: str
) -> None:
    folder = save_checkpoint(tmp_path, "qwen3", max_position_embeddings=16384, hidden_size=256)
    path = folder if kind == "folder" else write_gguf(folder, tmp_path / "model.gguf", kind)
    found, checkpoint, profile = read_contents(path), inspect(path), detect().profile
    verdicts = []
    for megabytes in (0.5, 1, 2, 3, 4, 6, 8, 16, 64, 1024):
        free = int(megabytes * 2**20)
        listed = fit(found.shape, found.longest, found.stored, "fp32", found.memory, free)
        verdicts.append(listed.verdict)
        try:
            dtype, _ = fitting(checkpoint, "none", profile, "fp32", free)
            shape = replace(checkpoint.shape, kv_bytes=BYTES[dtype])
            room = affordable_context(shape, free - listed.weight_bytes)
            context = _context(ModelSpec(model=str(path)), checkpoint, room, kv_bytes_per_token(shape))
        except DoesNotFit:
            assert (listed.verdict, listed.context) == ("no", 0)
        else:
            assert (listed.dtype, listed.context) == (dtype, context)
            assert listed.verdict == ("fits" if context == 8192 else "tight")
    assert sorted(set(verdicts), key=verdicts.index) == ["no", "tight", "fits"]
    assert LEAST_CONTEXT == PAGE


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
}
UNREAD = {
    "squeezellm": ({"quant_method": "squeezellm", "bits": 4}, "squeezellm"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "mxfp4": ({"quant_method": "mxfp4"}, "mxfp4"),
    "gptq for marlin": ({**GPTQ, "is_marlin_format": True}, "gptq in the layout 'marlin'"),
    "gptq's layout": ({**GPTQ, "checkpoint_format": "bitblas"}, "gptq in the layout 'bitblas'"),
    "gptq's bits": ({**GPTQ, "bits": 5}, "gptq with 5 bits"),
    "awq for gemv": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "awq in the layout 'gemv'"),
    "fp8's numbers": ({"quant_method": "fp8", "fmt": "e5m2"}, "fp8 in the number format 'e5m2'"),
    "marlin-24": ({**PACKED, "format": "marlin-24"}, "compressed-tensors in the layout 'marlin-24'"),
    "nvfp4": ({**PACKED, "format": "nvfp4-pack-quantized"}, "the layout 'nvfp4-pack-quantized'"),
    "sparse": ({**PACKED, "sparsity_config": {"format": "sparse-24-bitmask"}}, "the sparsity_config"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_what_the_loader_refuses_by_its_settings_is_listed_as_unreadable_with_the_same_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings, reason = UNREAD[kind]
    folder = save_checkpoint(tmp_path / ".lmstudio" / "models" / "maker" / "model", "qwen3")
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, "quantization_config": settings}))
    with pytest.raises(ModelError) as caught:
        inspect(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (listed,) = (one for one in models.list_models("fp32", 2**30) if one.name == "lmstudio:maker/model")
    assert reason in caught.value.message and listed.fits is None
    assert listed.problem == f"cannot be read: {caught.value.message.partition('config.json: ')[2]}"


def test_a_checkpoint_that_is_quantized_in_name_only_is_unreadable_in_the_list_too(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "qwen3")
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**plain, "quantization_config": GPTQ}))
    for read in (inspect, read_contents):
        with pytest.raises(ModelError, match="says gptq 4-bit g128, but no tensor is quantized so"):
            read(folder)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RecursionError("too deep")])
def test_a_file_that_fails_in_its_own_way_is_a_problem_of_its_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    root = tmp_path / ".lmstudio" / "models" / "maker"
    bad = save_checkpoint(root / "bad", "qwen3")
    save_checkpoint(root / "good", "qwen3")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def read(path: Path) -> Contents:
        if path == bad:
            raise error
        return read_contents(path)

    monkeypatch.setattr(models, "read_contents", read)
    found = {listed.name: listed.problem for listed in models.list_models("fp32", 2**30)}
    assert (
        found["lmstudio:maker/bad"]
        == f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"
    )
    assert found["lmstudio:maker/good"] is None and found["tiny"] is None
