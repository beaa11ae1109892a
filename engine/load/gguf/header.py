"""Reads what a GGUF file says of itself, checked against the file. Knows neither torch nor gguf.

A header is untrusted: nothing in it is believed before the file was found to be large enough for it. The gguf
package's own reader is not used here, for it believes counts, and takes seconds for a large vocabulary.
Format: ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.load.errors import ModelError
from engine.load.gguf.block_types import TYPES, Type

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
"""The file name of one of several that make up a model."""

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_HEADER = 256 * 2**20  # bytes; the largest vocabularies take about 10 MB
_MAX_DIMS = 4
_ALIGNMENT = 32
_DOWNLOAD = "download the file again"

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
"""Of a text, before it."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies; `shape` as torch has it, the rows' length last."""

    name: str
    type: Type
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """Of a model, in one file or several. Arrays in `metadata` are lists of text or `array`s."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it. Raises ModelError."""
        found = self.metadata.get("general.architecture")
        if not isinstance(found, str):
            raise ModelError(f"{self.path} does not say its architecture", "use another file of this model")
        return found


def read_header(path: Path, texts: bool = True) -> Header:
    """What the file, and those that it is split into, say. Raises ModelError, in one line.

    Without `texts`, arrays of text (vocabularies) are passed over.
    """
    first = _read(path, texts)
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or count < 2:
        return first
    named = SPLIT.fullmatch(path.name)
    if named is None or int(named[3]) != count:
        raise ModelError(
            f"{path} is one of {count} files, and its name does not say which",
            "give the files their names back, as in model-00001-of-00003.gguf",
        )
    paths = [path.with_name(f"{named[1]}-{number:05}-of-{named[3]}.gguf") for number in range(1, count + 1)]
    for part in paths:
        if not part.is_file():
            raise ModelError(
                f"{path.parent} lacks {part.name}, a part of the model", "download all its files"
            )
    headers = [first if part == path else _read(part, texts) for part in paths]
    tensors: dict[str, Tensor] = {}
    for header in headers:
        if twice := tensors.keys() & header.tensors.keys():
            raise ModelError(f"{header.path} has the tensor {min(twice)[:60]!r} again", _DOWNLOAD)
        tensors |= header.tensors
    return replace(headers[0], tensors=tensors, files=tuple(paths))


def _read(path: Path, texts: bool) -> Header:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(16)
            if not start.startswith(_MAGIC) or size < 24:
                raise _not_gguf(path, start)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, _Cursor(path, data, min(size, _MAX_HEADER)), size, texts)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def _not_gguf(path: Path, start: bytes) -> ModelError:
    if not start:
        return ModelError(f"{path} is empty", _DOWNLOAD)
    if start.lstrip().lower().startswith((b"<!doctyp", b"<html")):
        return ModelError(f"{path} is a web page, not a model", _DOWNLOAD)
    if start.startswith(b"version "):
        return ModelError(f"{path} is a Git LFS pointer, not a model", "run `git lfs pull` in that folder")
    return ModelError(f"{path} is not a GGUF file", _DOWNLOAD)


class _Cursor:
    """A place in the header; nothing is taken from beyond its end."""

    def __init__(self, path: Path, data: mmap.mmap, end: int) -> None:
        self._path = path
        self._data = data
        self._end = end
        self.at = 4

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        try:
            return self._take(self.scalar("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.corrupt("a text in it is not UTF-8") from error

    def value(self, kind: int, texts: bool) -> Any:
        """A value of metadata; None for texts that are passed over."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise self.corrupt(f"a value of kind {kind}")
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            self.expect(count, _LENGTH.size)
            return self._texts(count, texts)
        if kind not in _SCALARS:
            raise self.corrupt(f"an array of kind {kind}")
        code = _SCALARS[kind].replace("?", "B")
        self.expect(count, struct.calcsize("<" + code))
        values = array(code)
        values.frombytes(self._take(count * values.itemsize))
        if sys.byteorder == "big":
            values.byteswap()
        return values

    def _texts(self, count: int, keep: bool) -> list[str] | None:
        """As `text` reads them one by one: vocabularies have hundreds of thousands."""
        found: list[str] | None = [] if keep else None
        data, at, end, unpack = self._data, self.at, self._end, _LENGTH.unpack_from
        try:
            for _ in range(count):
                start = at + _LENGTH.size
                at = start + (unpack(data, at)[0] if start <= end else end)
                if at > end:
                    raise self._cut()
                if found is not None:
                    found.append(data[start:at].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self.corrupt("a text in it is not UTF-8") from error
        self.at = at
        return found

    def expect(self, count: int, nbytes: int) -> None:
        """There is room for so many entries of at least so many bytes."""
        if count * nbytes > self._end - self.at:
            raise self.corrupt(f"{count} entries cannot be in it")

    def corrupt(self, cause: str) -> ModelError:
        return ModelError(f"{self._path} is corrupt: its header is not readable ({cause})", _DOWNLOAD)

    def _take(self, nbytes: int) -> bytes:
        start, self.at = self.at, self.at + nbytes
        if self.at > self._end:
            raise self._cut()
        return self._data[start : self.at]

    def _cut(self) -> ModelError:
        return ModelError(f"{self._path} is truncated or corrupt: it ends inside its header", _DOWNLOAD)


def _parse(path: Path, cursor: _Cursor, size: int, texts: bool) -> Header:
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        swapped = version.to_bytes(4, "little")[::-1] in [known.to_bytes(4, "little") for known in _VERSIONS]
        what = "is for machines with the other byte order" if swapped else f"has version {version} of GGUF"
        raise ModelError(f"{path} {what}, which is not read", "look for a newer conversion of this model")
    tensor_count, entry_count = cursor.scalar("Q"), cursor.scalar("Q")
    cursor.expect(entry_count, 13)  # a name's length, a kind, a byte
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.scalar("I"), texts)
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise cursor.corrupt("general.alignment is no power of two")
    cursor.expect(tensor_count, 24)  # a name's length, a number of dimensions, a type, an offset
    found = [_tensor(path, cursor) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    tensors = {tensor.name: replace(tensor, offset=start + tensor.offset) for tensor in found}
    if len(tensors) < len(found):
        raise cursor.corrupt("two tensors of one name")
    _check_places(path, list(tensors.values()), size)
    return Header(path, metadata, tensors, (path,))


def _tensor(path: Path, cursor: _Cursor) -> Tensor:
    name, dims = cursor.text(), cursor.scalar("I")
    if not 0 < dims <= _MAX_DIMS:
        raise cursor.corrupt(f"the tensor {name[:60]!r} has {dims} dimensions")
    shape = tuple(cursor.scalar("Q") for _ in range(dims))[::-1]
    number, offset = cursor.scalar("I"), cursor.scalar("Q")
    kind = TYPES.get(number)
    if kind is None:
        raise ModelError(
            f"{path}: the tensor {name[:60]!r} is of type {number}, which is not known",
            "look for another quantization of this model, such as Q4_K_M or Q8_0",
        )
    if 0 in shape or shape[-1] % kind.block:
        raise cursor.corrupt(f"the tensor {name[:60]!r} cannot have the shape {shape} in {kind.name}")
    return Tensor(name, kind, shape, path, offset, math.prod(shape) // kind.block * kind.nbytes)


def _check_places(path: Path, tensors: list[Tensor], size: int) -> None:
    """Every tensor lies in the file, and none in another's place."""
    for tensor, after in _pairs(sorted(tensors, key=lambda tensor: tensor.offset)):
        if tensor.offset + tensor.nbytes > size:
            raise ModelError(
                f"{path} is truncated: {size} bytes, and {tensor.name[:60]!r} would end at "
                f"{tensor.offset + tensor.nbytes}",
                _DOWNLOAD,
            )
        if after is not None and tensor.offset + tensor.nbytes > after.offset:
            raise ModelError(
                f"{path} is corrupt: {tensor.name[:60]!r} and {after.name[:60]!r} lie in one place", _DOWNLOAD
            )


def _pairs(tensors: list[Tensor]) -> Iterator[tuple[Tensor, Tensor | None]]:
    return zip(tensors, [*tensors[1:], None], strict=True)
