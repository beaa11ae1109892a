"""What was quantized once is read the next time, and nothing damaged, foreign or outdated ever is."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from random_checkpoint import prompt, save_checkpoint
from safetensors.torch import load_file, save_file

from engine.load import planned
from engine.load.checkpoint import inspect
from engine.load.checksum import checksum
from engine.load.plan import plan_of
from engine.nn import rounding
from engine.protocol.quant import parse_quant
from engine.quantized_folder import QuantizedFolder

IDS = torch.tensor([prompt(20)])


class Loader:
    """Loads a model quantized, and knows whether it was quantized anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, store: QuantizedFolder) -> None:
        self.folder, self.store = folder, store
        self.rounded = 0
        self.stages: list[str] = []
        original = rounding.round_matrix

        def counted(*given: Any) -> Any:
            self.rounded += 1
            return original(*given)

        monkeypatch.setattr("engine.load.choose.round_matrix", counted)

    def __call__(self, quant: str = "int4") -> tuple[torch.Tensor, bool]:
        checkpoint = inspect(self.folder)
        plan = plan_of(parse_quant(quant), bool(checkpoint.config.tie_word_embeddings), "")
        self.rounded = 0
        self.stages = []
        model = planned.load_by(
            plan, checkpoint, "fp32", "cpu", "eager", lambda stage, *_: self.stages.append(stage), self.store
        )
        with torch.inference_mode():
            return model(IDS).logits, self.rounded > 0


@pytest.fixture(params=["qwen3", "qwen2_tied", "gemma3_text_tied", "mixtral", "gpt_oss"])
def load(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    family = request.param.removesuffix("_tied")
    folder = save_checkpoint(tmp_path / "model", family, tie_word_embeddings=request.param != family)
    return Loader(monkeypatch, folder, QuantizedFolder(tmp_path / "store"))


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    folder = save_checkpoint(tmp_path / "model", "llama")
    return Loader(monkeypatch, folder, QuantizedFolder(tmp_path / "store"))


@pytest.mark.parametrize("quant", ["int8", "int4,down_proj=fp8,q_proj=none"])
def test_the_second_start_reads_what_the_first_has_quantized(load: Loader, quant: str) -> None:
    first, anew = load(quant)
    assert anew and "keeping quantized weights" in load.stages
    second, anew = load(quant)
    assert not anew and "quantizing weights" not in load.stages
    assert torch.equal(first, second)


def test_a_tied_embedding_that_stays_as_it_is_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path / "model", "llama", tie_word_embeddings=True)
    load = Loader(monkeypatch, folder, QuantizedFolder(tmp_path / "store"))
    first, _ = load("int8,embed_tokens=none")
    (kept,) = load.store.kept()
    second, anew = load("int8,embed_tokens=none")
    assert not anew and torch.equal(first, second)
    assert [path.name for path in load.store.path.iterdir()] == [kept.path.name], "nothing is left beside it"


def test_a_fault_while_keeping_fails_no_load(llama: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("engine.load.quantized_store.save_file", broken)
    assert llama()[1] and not llama.store.kept() and not list(llama.store.path.iterdir())


def test_each_way_of_quantizing_and_each_checkpoint_has_its_own(llama: Loader) -> None:
    assert llama("int4")[1] and llama("int8")[1] and llama("int4,up_proj=none")[1]
    assert not llama("int4")[1] and not llama("int8")[1]
    assert len(llama.store.kept()) == 3
    weights = llama.folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.up_proj.weight"] *= 2
    before = llama("int4")[0]
    save_file(tensors, weights, metadata={"format": "pt"})
    after, anew = llama("int4")
    assert anew and not torch.equal(before, after)


def damages() -> Iterator[tuple[str, Any]]:
    yield "cut short", lambda file: os.truncate(file, file.stat().st_size - 100)
    yield "empty", lambda file: os.truncate(file, 0)
    yield "another thing", lambda file: file.write_bytes(b"<!doctype html>" * 100)
    yield "gone", lambda file: file.unlink()
    yield (
        "scales of another type",
        lambda file: file.write_bytes(file.read_bytes().replace(b'"F16"', b'"I16"')),
    )
    yield "foreign", lambda file: save_file({"x": torch.zeros(3)}, file, metadata={"matrices": '{"x": {}}'})


@pytest.mark.parametrize(("damage", "do"), list(damages()), ids=[name for name, _ in damages()])
def test_what_is_damaged_is_quantized_again(llama: Loader, damage: str, do: Any) -> None:
    expected, _ = llama()
    (kept,) = llama.store.kept()
    do(next(kept.path.glob("*.safetensors")))
    found, anew = llama()
    assert anew and torch.equal(found, expected)
    assert not llama()[1]


def flip(file: Path, place: int) -> None:
    """One bit."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << place % 8
    file.write_bytes(data)


@pytest.mark.parametrize("part", ["what it says of them", "codes and scales"])
def test_a_flipped_bit_never_becomes_a_wrong_weight(llama: Loader, part: str) -> None:
    expected, _ = llama()
    rng = random.Random(part)
    for _ in range(8):
        (kept,) = llama.store.kept()
        (file,) = kept.path.glob("*.safetensors")
        begin = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        said = file.read_bytes()[:begin].rstrip()
        where = (8, len(said)) if part.startswith("what") else (begin, file.stat().st_size)
        flip(file, rng.randrange(*where))
        found, anew = llama()
        assert anew and torch.equal(found, expected)


def test_every_bit_and_every_place_counts_in_a_checksum() -> None:
    values = torch.arange(5001, dtype=torch.int16)  # in two rows of 4 KiB and a part of one
    rows = torch.cat([values[2048:4096], values[:2048], values[4096:]])
    known = checksum(values)
    assert checksum(values.clone()) == known != checksum(rows)
    for place in (0, 2047, 2048, 4095, 4999, 5000):
        for bit in (1, 1 << 14):
            changed = values.clone()
            changed[place] ^= bit
            assert checksum(changed) != known


def test_files_in_shards_come_back_whole(llama: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.load.quantized_store._SHARD_BYTES", 20_000)
    expected, _ = llama()
    (kept,) = llama.store.kept()
    assert len(list(kept.path.glob("*.safetensors"))) > 3
    found, anew = llama()
    assert not anew and torch.equal(found, expected)


def test_a_disk_that_refuses_costs_nothing_but_the_next_start(llama: Loader) -> None:
    llama.store.path.write_text("a file where the folder would be")
    first, anew = llama()
    assert anew
    second, anew = llama()
    assert anew and torch.equal(first, second)


def test_the_least_recently_used_goes_where_the_budget_is_short(llama: Loader) -> None:
    llama("int8")
    (one,) = llama.store.kept()
    llama.store = QuantizedFolder(llama.store.path, round(2.2 * one.bytes))
    llama("int4")
    assert not llama("int8")[1]  # used last now
    llama("fp8")
    assert not llama("int8")[1] and not llama("fp8")[1]
    assert sum(kept.bytes for kept in llama.store.kept()) <= llama.store.limit()
    assert llama("int4")[1]


def test_nothing_is_kept_without_a_budget_nor_what_is_larger_than_it(llama: Loader) -> None:
    for budget in (0, 1000):
        llama.store = QuantizedFolder(llama.store.path, budget)
        llama()
        assert not llama.store.kept()


def test_what_a_killed_process_left_is_removed_after_a_while_and_strangers_stay(llama: Loader) -> None:
    llama("int8")
    old, new = llama.store.unnamed("0" * 32), llama.store.unnamed("1" * 32)
    stranger = llama.store.path / "notes"
    for path in (old, new, stranger):
        path.mkdir()
        (path / "0000.safetensors").write_bytes(b"half")
    os.utime(old, (1, 1))
    llama("int4")
    assert not old.exists() and new.exists() and stranger.exists()
    assert len(llama.store.kept()) == 2
