"""Writing a checkpoint's folder: all of it or nothing, in shards with their index. Knows no formats."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from engine.load.errors import DoesNotFit, ModelError
from engine.load.weights import INDEX, SINGLE

SHARD_BYTES = 2**30
"""What is held in memory before it is written."""
_SPARE = 64 * 2**20
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*")
_OWN = ("config.json", "quantize_config.json", "*.safetensors.index.json")


@contextmanager
def new_folder(out: Path, needed: int) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` at the end, and is gone where that is not reached.

    Raises ModelError where `out` is there already or cannot be there, DoesNotFit where `needed` bytes do not
    fit on its disk.
    """
    out = out.expanduser().absolute()
    _refuse_existing(out)
    if not out.parent.is_dir():
        raise ModelError(f"there is no folder {out.parent}", "make it first")
    free = shutil.disk_usage(out.parent).free
    if needed + _SPARE > free:
        raise DoesNotFit(
            f"the checkpoint takes {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free in {out.parent}",
            "free some space, or name a folder on another disk",
        )
    temporary = out.with_name(f".{out.name[:40]}.{secrets.token_hex(6)}")
    try:
        temporary.mkdir()
        yield temporary
        _refuse_existing(out)
        temporary.rename(out)
    except OSError as error:
        where = error.filename or out
        raise ModelError(f"{where} cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise ModelError(f"{out} is there already", "name a folder that is not there yet")


def copy_settings(source: Path, folder: Path) -> None:
    """Tokenizer, chat template, generation settings and license: all that lies beside the weights."""
    for path in sorted({path for pattern in _COPIED for path in source.glob(pattern)}):
        if path.is_file() and not any(path.match(pattern) for pattern in _OWN):
            shutil.copyfile(path, folder / path.name)


def write_config(folder: Path, config: Mapping[str, Any], quantization: Mapping[str, Any]) -> None:
    """config.json, with how the matrices are quantized."""
    text = json.dumps({**config, "quantization_config": quantization}, indent=2)
    (folder / "config.json").write_text(text + "\n", "utf-8")


class Shards:
    """Tensors on their way into safetensors files of about SHARD_BYTES."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, torch.Tensor] = {}
        self._held_bytes = 0
        self._written: list[tuple[Path, list[str]]] = []
        self.nbytes = 0
        """Of all tensors so far."""

    def add(self, name: str, tensor: torch.Tensor) -> None:
        tensor = tensor.cpu().contiguous()
        self._held[name] = tensor
        self._held_bytes += tensor.nbytes
        self.nbytes += tensor.nbytes
        if self._held_bytes >= SHARD_BYTES:
            self._write()

    def finish(self) -> None:
        """Write what is left, and name the files by how many there are."""
        self._write()
        count = len(self._written)
        if count == 1:
            self._written[0][0].rename(self._folder / SINGLE)
            return
        shard_of: dict[str, str] = {}
        for number, (path, names) in enumerate(self._written, 1):
            shard = f"model-{number:05}-of-{count:05}.safetensors"
            path.rename(self._folder / shard)
            shard_of |= dict.fromkeys(names, shard)
        index = {"metadata": {"total_size": self.nbytes}, "weight_map": dict(sorted(shard_of.items()))}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")

    def _write(self) -> None:
        if self._held:
            path = self._folder / f"{len(self._written)}.part"
            try:
                save_file(self._held, path, metadata={"format": "pt"})
            except SafetensorError as error:  # the library's own, of a disk that is full too
                raise ModelError(f"{path.parent.parent} cannot be written to: {error}") from error
            path.chmod(self._folder.stat().st_mode & 0o666)  # it is left readable by its owner alone
            self._written.append((path, list(self._held)))
            self._held, self._held_bytes = {}, 0
