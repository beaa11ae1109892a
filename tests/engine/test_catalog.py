"""What the list of models says of one is what loading it comes to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import write_gguf
from random_checkpoint import save_checkpoint

from engine.catalog import models
from engine.catalog.contents import METHODS, Contents, read_contents
from engine.load.checkpoint import inspect
from engine.load.errors import DoesNotFit, ModelError
from engine.load.formats import _SCHEMES
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


def test_the_quantized_checkpoints_that_are_listed_are_those_that_load(tmp_path: Path) -> None:
    assert set(METHODS) == set(_SCHEMES)
    folder = save_checkpoint(tmp_path, "qwen3")
    plain = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "squeezellm", "bits": 4}
    (folder / "config.json").write_text(json.dumps({**plain, "quantization_config": settings}))
    for read in (inspect, read_contents):
        with pytest.raises(ModelError, match="quantized by squeezellm, which mull does not read"):
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
