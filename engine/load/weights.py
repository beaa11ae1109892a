"""Checks a checkpoint's safetensors before anything is loaded. Knows no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from engine.load.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_AT_ONCE = 2**22
_DOWNLOAD = "download the file again"
_BYTES = {
    **dict.fromkeys(("F64", "I64"), 8),
    **dict.fromkeys(("F32", "I32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "BOOL", "U8", "I8"), 1),
}
"""Per value, of the dtypes that are known here."""


@dataclass(frozen=True)
class Stored:
    """A tensor as its file has it; `dtype` as safetensors names it, as in `BF16`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    """In the file, in bytes."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def check_weights(folder: Path) -> dict[str, Stored]:
    """Read every shard's header and compare it with the file; the tensors by name.

    Raises ModelError naming file and cause.
    """
    shards = _shards(folder)
    found: dict[str, Stored] = {}
    for shard, expected in shards.items():
        try:
            tensors = read_header(folder / shard)
        except OSError as error:
            raise ModelError(f"{folder / shard} cannot be read: {error.strerror}") from error
        if missing := sorted(expected - tensors.keys()):
            raise ModelError(f"{folder / shard} lacks the tensor {missing[0]} that {INDEX} names", _DOWNLOAD)
        found |= tensors
    if not found:
        raise ModelError(f"{folder} has weight files without any tensor", _DOWNLOAD)
    return found


def same_values(first: Stored, second: Stored) -> bool:
    """Whether two tensors are equal to the bit. Raises OSError."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with first.file.open("rb") as one, second.file.open("rb") as other:
        one.seek(first.offset)
        other.seek(second.offset)
        left = first.nbytes
        while left:
            count = min(left, _AT_ONCE)
            if one.read(count) != other.read(count):
                return False
            left -= count
    return True


def _shards(folder: Path) -> dict[str, set[str]]:
    """File names of the shards, each with the tensors that the index expects in it."""
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
            shards: dict[str, set[str]] = {}
            for tensor, shard in weight_map.items():
                shards.setdefault(str(shard), set()).add(str(tensor))
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is not a readable index of shards", _DOWNLOAD) from error
        for shard in shards:
            if Path(shard).name != shard:
                raise ModelError(f"{index} names a shard outside its folder: {shard[:200]!r}")
            if not (folder / shard).is_file():
                raise ModelError(f"{folder} lacks the shard {shard} that {INDEX} names", _DOWNLOAD)
        return shards
    if (folder / SINGLE).is_file():
        return {SINGLE: set()}
    for pattern in ("*.bin", "*.pt", "*.pth"):
        if pickled := sorted(folder.glob(pattern)):
            raise ModelError(
                f"{folder} has only pickled weights ({pickled[0].name}), which can run code when read",
                "convert it to safetensors, or look for a repository that has them",
            )
    if gguf := sorted(folder.glob("*.gguf")):
        raise ModelError(
            f"{folder} has its weights as GGUF ({gguf[0].name})", f"name that file: --model {gguf[0]}"
        )
    raise ModelError(
        f"{folder} has no weights: neither {SINGLE} nor {INDEX}", "download the model completely"
    )


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors in a safetensors file that is as long as its header says. Raises ModelError and OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start.lower().startswith((b"<!doctyp", b"<html")):
            raise ModelError(f"{path} is a web page, not weights", _DOWNLOAD)
        if start == b"version ":
            raise ModelError(f"{path} is a Git LFS pointer, not weights", "run `git lfs pull` in that folder")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _MAX_HEADER:
            raise ModelError(f"{path} is not a safetensors file", _DOWNLOAD)
        if 8 + length > size:
            raise ModelError(f"{path} is truncated: {size} bytes end inside its header", _DOWNLOAD)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = {name: (int(e["data_offsets"][0]), int(e["data_offsets"][1])) for name, e in entries.items()}
        tensors = {
            name: Stored(
                path,
                str(entry["dtype"]),
                tuple(map(int, entry["shape"])),
                spans[name][1] - spans[name][0],
                8 + length + spans[name][0],
            )
            for name, entry in entries.items()
        }
        end = max((end for _, end in spans.values()), default=0)
    except (ValueError, OverflowError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is corrupt: its header is not readable", _DOWNLOAD) from error
    for name, stored in tensors.items():
        if not _consistent(stored, spans[name]):
            raise ModelError(
                f"{path} is corrupt: the bytes of {name[:200]!r} are not those of its shape and dtype",
                _DOWNLOAD,
            )
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "corrupt"
        raise ModelError(f"{path} is {state}: {size} bytes instead of {8 + length + end}", _DOWNLOAD)
    return tensors


def _consistent(stored: Stored, span: tuple[int, int]) -> bool:
    """Whether a tensor's place in the file can be one, and is as long as its values are."""
    itemsize = _BYTES.get(stored.dtype)
    if not 0 <= span[0] <= span[1] or min(stored.shape, default=0) < 0:
        return False
    return itemsize is None or stored.nbytes == stored.elements * itemsize
