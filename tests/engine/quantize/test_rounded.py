"""What `--to int4` and `int8` write is compressed-tensors, with what rounding makes of each matrix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import write_gguf
from quantized_checkpoint import words
from random_checkpoint import prompt, save_checkpoint
from safetensors.torch import load_file, save_file

from engine.load.checkpoint import inspect
from engine.load.choose import quantize_by
from engine.load.errors import DoesNotFit, ModelError
from engine.load.plan import KINDS, QuantPlan
from engine.nn.rounding import round_matrix
from engine.protocol.quantize import Making, Written
from engine.quantize import folder as folders
from engine.quantize.folder import new_folder
from engine.quantize.matrices import plain_checkpoint
from engine.quantize.models import load
from engine.quantize.rounded import make_rounded

Make = Callable[[Path, str], Written]
IDS = torch.tensor([prompt(40)])


def make(source: Path, to: str, out: Path) -> Written:
    making = Making(to=to, out=str(out))  # type: ignore[arg-type]
    return make_rounded(plain_checkpoint(str(source)), making, lambda _: None)


def settings(out: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((out / "config.json").read_text())["quantization_config"]
    return config


def logits(folder: Path, **more: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load(inspect(folder), "cpu", lambda _: None, "fp32", **more)(IDS).logits
    return found


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe", "mixtral"])
@pytest.mark.parametrize("to", ["int4", "int8"])
def test_a_checkpoint_reads_back_as_the_same_model_quantized_while_it_is_loaded(
    tmp_path: Path, family: str, to: str
) -> None:
    source = save_checkpoint(tmp_path / "model", family)
    make(source, to, tmp_path / "out")
    plan = QuantPlan(KINDS[to], exceptions=(("*embed_tokens", None),))
    assert torch.equal(logits(tmp_path / "out"), logits(source, quantize=quantize_by(plan)))


@pytest.mark.parametrize(
    ("to", "bits", "name", "group"),
    [
        ("int4", 4, "mlp.down_proj", 64),
        ("int4", 4, "self_attn.o_proj", 32),
        ("int8", 8, "mlp.down_proj", 32),
    ],
)
def test_codes_are_packed_as_the_format_describes(
    tmp_path: Path, to: str, bits: int, name: str, group: int
) -> None:
    source = save_checkpoint(tmp_path / "model", "llama")
    written = make(source, to, tmp_path / "out")
    name = f"model.layers.1.{name}"
    tensors, plain = load_file(tmp_path / "out/model.safetensors"), load_file(source / "model.safetensors")
    rounded = round_matrix(plain[f"{name}.weight"], KINDS[to], group)
    scales = rounded.scales.float().repeat_interleave(rounded.group, 1)
    codes = (rounded.dequantize() / scales).round().long() + 2 ** (bits - 1)
    assert np.array_equal(tensors[f"{name}.weight_packed"].numpy(), words(codes.numpy(), bits))
    assert torch.equal(tensors[f"{name}.weight_scale"], rounded.scales)
    assert tensors[f"{name}.weight_shape"].tolist() == list(plain[f"{name}.weight"].shape)
    assert torch.equal(tensors["model.embed_tokens.weight"], plain["model.embed_tokens.weight"])
    assert written.bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_the_head_has_eight_bits_and_the_feed_forward_wide_groups(tmp_path: Path) -> None:
    make(save_checkpoint(tmp_path / "model", "llama"), "int4", tmp_path / "out")
    groups = settings(tmp_path / "out")["config_groups"].values()
    found = {
        (group["weights"]["num_bits"], group["weights"]["group_size"]): group["targets"] for group in groups
    }
    feed_forward = [
        f"model.layers.{layer}.mlp.{name}_proj" for layer in range(4) for name in ("down", "gate", "up")
    ]
    assert found == {(4, 32): ["Linear"], (4, 64): feed_forward, (8, 32): ["lm_head"]}
    assert settings(tmp_path / "out")["ignore"] == []


def test_a_tied_head_and_routers_are_ignored_and_experts_keep_their_names(tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "model", "qwen3_moe", tie_word_embeddings=True)
    make(source, "int4", tmp_path / "out")
    assert settings(tmp_path / "out")["ignore"] == [
        "lm_head",
        *(f"model.layers.{number}.mlp.gate" for number in range(4)),
    ]
    names = set(load_file(tmp_path / "out/model.safetensors"))
    assert "model.layers.3.mlp.experts.2.up_proj.weight_packed" in names
    assert "model.layers.3.mlp.gate.weight" in names


def test_shards_are_named_by_an_index_and_settings_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_checkpoint(tmp_path / "model", "llama")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "mull.json").write_text("{}")
    (source / "pytorch_model.bin").write_bytes(b"pickled")
    make(source, "int8", tmp_path / "whole")
    monkeypatch.setattr(folders, "SHARD_BYTES", 60_000)
    make(source, "int8", tmp_path / "parts")
    names = {path.name for path in (tmp_path / "parts").iterdir()}
    shards = {name for name in names if name.startswith("model-")}
    assert len(shards) > 2
    assert names - shards == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "mull.json",
        "model.safetensors.index.json",
    }
    assert torch.equal(logits(tmp_path / "parts"), logits(tmp_path / "whole"))


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "model", "llama")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.2\.mlp\.up_proj cannot be quantized: .*finite"):
        make(source, "int4", tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_folder_that_is_there_is_never_written_to(tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "model", "llama")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="is there already"):
        make(source, "int4", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="is there already"):
        make(source, "int4", tmp_path / "dangling")
    with pytest.raises(ModelError, match="there is no folder"):
        make(source, "int4", tmp_path / "missing" / "out")


def test_too_little_space_on_the_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="are free in"), new_folder(tmp_path / "out", 10**18):
        pass
    assert not (tmp_path / "out").exists()


FULL = """
import resource, signal, sys
from engine.protocol.quantize import Making
from engine.quantize.matrices import plain_checkpoint
from engine.quantize.rounded import make_rounded
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
make_rounded(plain_checkpoint(sys.argv[1]), Making(to="int8", out=sys.argv[2]), lambda _: None)
"""


def test_a_disk_that_fills_up_on_the_way_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "model", "llama")
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"ModelError: {tmp_path} cannot be written to: " in ran.stderr
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


WATCHED = """
import re, sys, threading, time
from pathlib import Path
from engine.protocol.quantize import Making
from engine.quantize import folder
from engine.quantize.matrices import plain_checkpoint
from engine.quantize.rounded import make_rounded

def held():
    # memory of the process's own: the file's pages that are mapped can be given back at any time
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def watch():
    while not done.wait(0.002):
        peaks.append(held())

folder.SHARD_BYTES = 8 * 2**20
checkpoint = plain_checkpoint(sys.argv[1])
done, before, peaks = threading.Event(), held(), [0]
watcher = threading.Thread(target=watch)
watcher.start()
make_rounded(checkpoint, Making(to="int8", out=sys.argv[2]), lambda _: None)
done.set()
watcher.join()
print(max(peaks) - before)
"""


def test_memory_stays_near_one_shard_whatever_the_model_takes(tmp_path: Path) -> None:
    source = save_checkpoint(
        tmp_path / "model", "llama", hidden_size=512, intermediate_size=2048, num_hidden_layers=24
    )
    command = [sys.executable, "-c", WATCHED, str(source), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert (source / "model.safetensors").stat().st_size > 300e6
    assert int(ran.stdout) < 110e6


def test_a_gguf_file_is_refused_with_a_step_that_can_be_taken(tmp_path: Path) -> None:
    path = write_gguf(save_checkpoint(tmp_path / "model", "llama"), tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="is a GGUF file") as caught:
        make(path, "int4", tmp_path / "out")
    assert "Hugging Face format" in caught.value.hint and "--quant" not in caught.value.hint


def test_what_has_no_place_in_the_format_is_refused(tmp_path: Path) -> None:
    fused = save_checkpoint(tmp_path / "fused", "gpt_oss")
    with pytest.raises(ModelError, match="all experts of a layer in one tensor"):
        make(fused, "int4", tmp_path / "out")
    transposed = save_checkpoint(tmp_path / "transposed", "gpt2")
    with pytest.raises(ModelError, match="layers without linears"):
        make(transposed, "int4", tmp_path / "out")
    source = save_checkpoint(tmp_path / "model", "llama")
    make(source, "int4", tmp_path / "once")
    with pytest.raises(ModelError, match="quantized already"):
        make(tmp_path / "once", "int8", tmp_path / "twice")
