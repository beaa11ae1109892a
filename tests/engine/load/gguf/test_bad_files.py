"""A GGUF file that lies gives one line that names it and the cause, and takes no memory that it asks for."""

from __future__ import annotations

import struct
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path

import gguf
import gguf_files
import pytest
from gguf_files import converted, write_gguf
from random_checkpoint import save_checkpoint

from engine.load.checkpoint import inspect
from engine.load.errors import ModelError
from engine.load.gguf.header import read_header
from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer

HUGE = 2**62
MEMORY = 4 * 2**20  # bytes; an honest header of this size takes less than one


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file in order, to be damaged."""
    folder = save_checkpoint(tmp_path_factory.mktemp("model"), "llama", num_hidden_layers=1)
    return write_gguf(folder, folder / "model.gguf", **{"general.alignment": 32}).read_bytes()


def after(data: bytes, text: str, offset: int = 0) -> int:
    """Where a string of the header ends."""
    return data.index(struct.pack("<Q", len(text)) + text.encode()) + 8 + len(text) + offset


def put(data: bytes, at: int, code: str, value: int) -> bytes:
    packed = struct.pack("<" + code, value)
    return data[:at] + packed + data[at + len(packed) :]


def tensor(data: bytes, name: str, field: str) -> int:
    """Where a field of a two-dimensional tensor's entry lies."""
    return after(data, name, {"dims": 0, "shape": 4, "type": 20, "offset": 24}[field])


MATRIX = "blk.0.ffn_up.weight"
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda d: b"", "is empty"),
    "four bytes": (lambda d: d[:4], "not a GGUF file"),
    "web page": (lambda d: b"\n<!DOCTYPE html><title>Sign in</title>" + d, "web page"),
    "pointer": (lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "other format": (lambda d: b"\x80\x02}q\x00" + d, "not a GGUF file"),
    "old version": (lambda d: put(d, 4, "I", 1), "version 1"),
    "other byte order": (lambda d: put(d, 4, "I", 3 << 24), "byte order"),
    "cut in the header": (lambda d: d[:2000], "its header"),
    "cut in the weights": (lambda d: d[:-1000], "truncated"),
    "more tensors than bytes": (lambda d: put(d, 8, "Q", HUGE), "entries cannot be in it"),
    "more tensors than there are": (lambda d: put(d, 8, "Q", 100), "not readable"),
    "more metadata than bytes": (lambda d: put(d, 16, "Q", HUGE), "entries cannot be in it"),
    "long key": (lambda d: put(d, 24, "Q", HUGE), "ends inside its header"),
    "long text": (lambda d: put(d, after(d, "general.architecture", 4), "Q", HUGE), "ends inside its header"),
    "kind of value": (lambda d: put(d, after(d, "llama.block_count"), "I", 77), "a value of kind 77"),
    "array of arrays": (lambda d: put(d, after(d, "tokenizer.ggml.tokens", 4), "I", 9), "array of kind 9"),
    "long array of texts": (
        lambda d: put(d, after(d, "tokenizer.ggml.tokens", 8), "Q", HUGE),
        "entries cannot be in it",
    ),
    "long array of numbers": (
        lambda d: put(d, after(d, "tokenizer.ggml.token_type", 8), "Q", HUGE),
        "entries cannot be in it",
    ),
    "text is not UTF-8": (lambda d: d.replace(b"llama", b"ll\xffma", 1), "not UTF-8"),
    "dimensions": (lambda d: put(d, tensor(d, MATRIX, "dims"), "I", 2**31), "dimensions"),
    "no dimension": (lambda d: put(d, tensor(d, MATRIX, "dims"), "I", 0), "dimensions"),
    "shape": (lambda d: put(d, tensor(d, MATRIX, "shape"), "Q", HUGE), "truncated"),
    "empty shape": (lambda d: put(d, tensor(d, MATRIX, "shape"), "Q", 0), "cannot have the shape"),
    "type": (lambda d: put(d, tensor(d, MATRIX, "type"), "I", 99), "of type 99, which is not known"),
    "type of larger blocks": (
        lambda d: put(d, tensor(d, MATRIX, "type"), "I", gguf.GGMLQuantizationType.Q4_K),
        "cannot have the shape",
    ),
    "offset": (lambda d: put(d, tensor(d, MATRIX, "offset"), "Q", HUGE), "truncated"),
    "one place": (lambda d: put(d, tensor(d, MATRIX, "offset"), "Q", 0), "lie in one place"),
    "one name": (
        lambda d: d.replace(b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"),
        "two tensors of one name",
    ),
    "tensor of nobody": (lambda d: d.replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_xx.weight"), "ffn_xx"),
    "no architecture": (
        lambda d: d.replace(b"general.architecture", b"general.architectura"),
        "architecture",
    ),
    "unknown architecture": (lambda d: d.replace(b"llama", b"lhama"), "'lhama', which is not read"),
    "no metadata": (lambda d: d.replace(b"llama.block_count", b"llama.block_xxxxx"), "lacks the metadata"),
    "too many layers": (
        lambda d: put(d, after(d, "llama.block_count", 4), "I", 2**31),
        "lacks layers up to 2147483648",
    ),
    "other hidden size": (
        lambda d: put(d, after(d, "llama.embedding_length", 4), "I", 2**20),
        "for a hidden size of 1048576",
    ),
    "no heads": (lambda d: put(d, after(d, "llama.attention.head_count", 4), "I", 0), "cannot be 0"),
    "odd heads": (lambda d: put(d, after(d, "llama.attention.head_count_kv", 4), "I", 3), "evenly"),
    "alignment": (lambda d: put(d, after(d, "general.alignment", 4), "I", 48), "no power of two"),
    "no vocabulary": (lambda d: d.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenx"), "vocabulary"),
    "unknown vocabulary": (lambda d: d.replace(b"\4\0\0\0\0\0\0\0gpt2", b"\4\0\0\0\0\0\0\0rwkv"), "'rwkv'"),
    "unknown split": (lambda d: d.replace(b"gpt-2", b"gpt-9"), "splits text as 'gpt-9'"),
}


def read(path: Path) -> None:
    found = locate(str(path))
    inspect(found)
    HubTokenizer(found)


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_line_names_the_file_and_the_cause(tmp_path: Path, good: bytes, damage: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(good)
    read(path)  # also loads what is imported
    break_it, mention = DAMAGES[damage]
    broken = break_it(good)
    assert broken != good
    path.write_bytes(broken)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = caught.value.message
    assert mention in message and str(path) in message and "\n" not in message, message
    assert peak < MEMORY


@pytest.mark.parametrize("dimensions", [1, 2])
def test_experts_in_another_number_of_dimensions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimensions: int
) -> None:
    folder = save_checkpoint(tmp_path, "qwen3_moe", num_hidden_layers=1)
    tensors = converted(folder)
    for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"):
        tensors[name] = tensors[name].reshape((-1, tensors[name].shape[-1]) if dimensions == 2 else -1)
    monkeypatch.setattr(gguf_files, "converted", lambda folder: tensors)
    with pytest.raises(ModelError, match=f"'blk.0.ffn_gate_exps.weight' in {dimensions} dim") as caught:
        read(write_gguf(folder, tmp_path / "model.gguf"))
    assert "\n" not in caught.value.message


def test_experts_that_are_a_tensor_each_and_those_of_unknown_mixtures_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first conversions of Mixtral were; an architecture of which llama.cpp knows none."""
    folder = save_checkpoint(tmp_path / "old", "mixtral", num_hidden_layers=1)
    tensors = converted(folder)
    apart = {
        f"blk.0.ffn_up.{n}.weight": part for n, part in enumerate(tensors.pop("blk.0.ffn_up_exps.weight"))
    }
    monkeypatch.setattr(gguf_files, "converted", lambda folder: {**tensors, **apart})
    with pytest.raises(ModelError, match=r"'blk\.0\.ffn_up\.0\.weight', which a llama has no place for"):
        read(write_gguf(folder, tmp_path / "old.gguf"))
    monkeypatch.undo()
    folder = save_checkpoint(tmp_path / "other", "qwen2", num_hidden_layers=1)
    with pytest.raises(ModelError, match="a qwen2 that is not read: it has experts"):
        read(write_gguf(folder, tmp_path / "other.gguf", **{"qwen2.expert_count": 4}))


def test_every_byte_of_a_header_may_be_wrong_without_anything_but_an_error(
    tmp_path: Path, good: bytes
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(good)
    end = min(found.offset for found in read_header(path).tensors.values())
    for at in range(0, end, 3):
        path.write_bytes(put(good, at, "B", good[at] ^ 0x80))
        try:
            read_header(path)
        except ModelError as error:
            assert "\n" not in error.message


def test_headers_are_read_as_the_gguf_package_reads_them(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(good)
    header, expected = read_header(path), gguf.GGUFReader(path)
    fields = {
        name: field.contents() for name, field in expected.fields.items() if not name.startswith("GGUF.")
    }
    assert {name: v.tolist() if isinstance(v, array) else v for name, v in header.metadata.items()} == fields
    assert [
        (found.name, found.type.name, list(found.shape)[::-1], found.offset, found.nbytes)
        for found in header.tensors.values()
    ] == [
        (found.name, found.tensor_type.name, found.shape.tolist(), found.data_offset, found.n_bytes)
        for found in expected.tensors
    ]
    assert read_header(path, texts=False).metadata["tokenizer.ggml.tokens"] is None


def test_a_model_of_several_files_says_which_is_missing(tmp_path: Path, good: bytes) -> None:
    folder = save_checkpoint(tmp_path / "model", "llama")
    make = gguf.GGUFWriter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFWriter", lambda *given: make(*given, split_max_tensors=20))
        write_gguf(folder, tmp_path / "parts.gguf")
    first, second, *_ = sorted(tmp_path.glob("parts-*.gguf"))
    second.unlink()
    with pytest.raises(ModelError, match=f"lacks {second.name}"):
        inspect(first)
    with pytest.raises(ModelError, match="its name does not say which"):
        inspect(first.rename(tmp_path / "renamed.gguf"))
