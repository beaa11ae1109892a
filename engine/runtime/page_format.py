"""A page of keys and values as a safetensors file: written under another name first, read and verified.

Files are read into memory of our own and never mapped: a mapped file that somebody cuts ends the process.
Nothing in a file is parsed: what comes before its data must be, byte for byte, what would be written there.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engine.page_files import unnamed

FORMAT = "mull.page/1"
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8"}
_CHECKSUM = b'"crc32":"'


class Unsound(Exception):
    """A file is not the page that its name says; the message says why, in a few words."""


@dataclass(frozen=True)
class PageFormat:
    """Files of pages of one model: `shape` is a page's, [2, layers, kv_heads, PAGE, width]."""

    fingerprint: bytes
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def data_bytes(self) -> int:
        """Bytes of a page's keys and values."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def file_bytes(self, ids: np.ndarray) -> int:
        """Bytes of the file of the page at the end of `ids`."""
        return len(self._header(ids)) + self.data_bytes

    def write(self, path: Path, ids: np.ndarray, page: torch.Tensor) -> None:
        """Put a page at `path`. `ids` are all tokens from the beginning to its end. Raises OSError.

        Without fsync: what a power cut tears does not pass the checksum, and can be computed again.
        """
        path.parent.mkdir(mode=0o700, exist_ok=True)
        data = _bytes_of(page)
        temporary = unnamed(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_with_checksum(self._header(ids), data))
                file.write(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def read(self, path: Path, ids: np.ndarray) -> torch.Tensor:
        """The page at the end of `ids`, in the CPU's memory. Raises Unsound, and OSError."""
        header = self._header(ids)
        # a pipe by this name must not hold us up, a link not lead us elsewhere
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid():
                raise Unsound("not a file of this user")
            if state.st_size != len(header) + self.data_bytes:
                raise Unsound("cut short, or not a page of this model")
            page = torch.empty(self.shape, dtype=self.dtype)
            data, found = _bytes_of(page), file.read(len(header))
            file.readinto(data)  # what is cut meanwhile does not pass the checksum
        if found != _with_checksum(header, data):
            raise Unsound(
                "damaged: its checksum differs"
                if _with_checksum(found, b"") == _with_checksum(header, b"")
                else "of another model, other tokens or another format"
            )
        return page

    def _header(self, ids: np.ndarray) -> bytes:
        """What comes before the data: the length of a JSON text in eight bytes, then the text.

        All tokens up to the page's end are in it, as hexadecimal int32: the file's name is but their hash.
        The checksum is left blank.
        """
        header = {
            "__metadata__": {
                "format": FORMAT,
                "crc32": "00000000",
                "fingerprint": self.fingerprint.hex(),
                "tokens": ids.astype("<i4").tobytes().hex(),
            },
            "page": {
                "dtype": _DTYPES[self.dtype],
                "shape": self.shape,
                "data_offsets": [0, self.data_bytes],
            },
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def _with_checksum(header: bytes, data: bytes | memoryview) -> bytes:
    begin = header.find(_CHECKSUM) + len(_CHECKSUM)
    return b"%s%08x%s" % (header[:begin], zlib.crc32(data), header[begin + 8 :])


def _bytes_of(page: torch.Tensor) -> memoryview:
    """A page's memory, as bytes that can be read and written."""
    return memoryview(page.view(torch.uint8).numpy().reshape(-1))
