"""Checks a checkpoint's weight files before anything is loaded: safetensors only. Knows no torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engine.load.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_DOWNLOAD = "download the file again"


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors: bytes by name, the dtype that most have (as in `BF16`), elements in all."""

    tensor_bytes: dict[str, int]
    dtype: str
    elements: int

    @property
    def total_bytes(self) -> int:
        return sum(self.tensor_bytes.values())


def check_weights(folder: Path) -> Weights:
    """Read every shard's header and compare it with the file. Raises ModelError naming file and cause."""
    shards = _shards(folder)
    tensor_bytes: dict[str, int] = {}
    dtypes: Counter[str] = Counter()
    elements = 0
    for shard, expected in shards.items():
        try:
            tensors = _read_header(folder / shard)
        except OSError as error:
            raise ModelError(f"{folder / shard} cannot be read: {error.strerror}") from error
        if missing := sorted(expected - tensors.keys()):
            raise ModelError(f"{folder / shard} lacks the tensor {missing[0]} that {INDEX} names", _DOWNLOAD)
        for name, (dtype, count, size) in tensors.items():
            tensor_bytes[name] = size
            dtypes[dtype] += count
            elements += count
    if not tensor_bytes:
        raise ModelError(f"{folder} has weight files without any tensor", _DOWNLOAD)
    return Weights(tensor_bytes, dtypes.most_common(1)[0][0], elements)


def _shards(folder: Path) -> dict[str, set[str]]:
    """File names of the shards, each with the tensors that the index expects in it."""
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
            shards: dict[str, set[str]] = {}
            for tensor, shard in weight_map.items():
                shards.setdefault(str(shard), set()).add(str(tensor))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
            f"{folder} has its weights as GGUF ({gguf[0].name}), which cannot be loaded yet",
            "use the safetensors repository of the same model",
        )
    raise ModelError(
        f"{folder} has no weights: neither {SINGLE} nor {INDEX}", "download the model completely"
    )


def _read_header(path: Path) -> dict[str, tuple[str, int, int]]:
    """(dtype, elements, bytes) of each tensor in a safetensors file that is as long as its header says."""
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
            name: (str(entry["dtype"]), math.prod(map(int, entry["shape"])), spans[name][1] - spans[name][0])
            for name, entry in entries.items()
        }
        end = max((end for _, end in spans.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{path} is corrupt: its header is not readable", _DOWNLOAD) from error
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "corrupt"
        raise ModelError(f"{path} is {state}: {size} bytes instead of {8 + length + end}", _DOWNLOAD)
    return tensors
