"""Weights that were quantized as they were loaded, on disk: the next start reads them and not the model's.

They lie under a key of the checkpoint's files and of how they were quantized, in the names of the model's own
parameters, with their checksums. What is missing, cut short, not readable or changed is quantized again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine.load.checksum import checksum
from engine.load.errors import ModelError
from engine.load.identity import identity
from engine.load.matrices import Lazy
from engine.load.plan import QuantPlan, way
from engine.load.source import Source
from engine.load.tensor import DTYPES, read_tensor
from engine.load.weights import Stored, read_header
from engine.nn.quant_modules import Holder
from engine.nn.quantized import Quantized
from engine.quantized_folder import QuantizedFolder, mark_used

_FORMAT = 2
_SHARD_BYTES = 256 * 2**20
"""A file's tensors are held twice while it is written."""
_MATRICES, _SUMS, _DIGEST = "matrices", "sums", "digest"
"""In a file's metadata: what its matrices are, its tensors' checksums, and a hash of what it says of all."""

log = logging.getLogger("mull.engine")


def key_of(source: Source, plan: QuantPlan, dtype: str) -> str:
    """Names the checkpoint's files, how its matrices are quantized, and the dtype of the rest."""
    parts = [
        f"{_FORMAT} {way(plan)} {dtype}",
        *(identity(file) for file in source.files),
    ]
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


class KeptSource:
    """Implements `engine.load.source.Parameters` over what was kept."""

    def __init__(self, folder: Path, name: str) -> None:
        """`name` is what it is quantized by. Raises ModelError where the files are not whole."""
        self.files = tuple(sorted(folder.glob("*.safetensors")))
        if not self.files:
            raise ModelError(f"{folder} has no weights")
        self.quantization = name
        self._matrices: dict[str, dict[str, Any]] = {}
        self._tensors: dict[str, Stored] = {}
        self._sums: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        for file in self.files:
            header = read_header(file)
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
            matrices, sums = json.loads(metadata[_MATRICES]), json.loads(metadata[_SUMS])
            shapes = {tensor: (stored.dtype, stored.shape) for tensor, stored in header.items()}
            if metadata[_DIGEST] != _digest(matrices, sums, shapes):
                raise ModelError(f"{file} is not what was written")
            self._matrices |= matrices
            self._tensors |= header
            self._sums |= sums
            for tensor, stored in header.items():
                parameter = tensor.partition("|")[0]
                self.sizes[parameter] = self.sizes.get(parameter, 0) + stored.nbytes

    @contextmanager
    def open(self, mapped: bool = True) -> Iterator[dict[str, Any]]:
        """Nothing is `mapped`: the bytes whose checksum was right are those that are computed with."""
        yield {
            name: Lazy(partial(self._matrix if name in self._matrices else self._tensor, name), size)
            for name, size in self.sizes.items()
        }

    def _matrix(self, name: str) -> Quantized:
        meaning = self._matrices[name]
        parts = {part: self._tensor(f"{name}|{part}") for part in meaning["parts"]}
        return Quantized(kind=meaning["kind"], group=meaning["group"], **parts)

    def _tensor(self, name: str) -> torch.Tensor:
        """Raises ModelError where it is not what was written."""
        tensor = read_tensor(self._tensors[name])
        if checksum(tensor) != self._sums[name]:
            raise ModelError(f"{self._tensors[name].file} is damaged at {name}")
        return tensor


def _digest(matrices: Mapping[str, Any], sums: Mapping[str, str], shapes: Mapping[str, Any]) -> str:
    """Of all that a file says of its tensors."""
    said = json.dumps([matrices, sums, shapes], sort_keys=True)
    return blake2b(said.encode(), digest_size=16).hexdigest()


def find(folder: QuantizedFolder, key: str, name: str) -> KeptSource | None:
    """What was kept under a key; what is damaged is removed."""
    path = folder.model(key)
    if not path.is_dir():
        return None
    try:
        found = KeptSource(path, name)
    except (ModelError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        log.warning("quantized weights in %s are not used: %s", path, error)
        shutil.rmtree(path, ignore_errors=True)
        return None
    mark_used(path)
    return found


def keep(folder: QuantizedFolder, key: str, model: Any) -> None:
    """Write a loaded model's parameters, quantized or not. Where that fails, nothing is kept."""
    target, unfinished = folder.model(key), folder.unnamed(key)
    try:
        tensors, meanings = _parts(model)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if target.exists() or not folder.make_room(size):
            return
        unfinished.mkdir(mode=0o700, parents=True)
        for number, names in enumerate(_shards(tensors)):
            parameters = {name.partition("|")[0] for name in names}
            matrices = {name: meanings[name] for name in parameters if name in meanings}
            held = {name: tensors[name].detach().cpu().contiguous() for name in names}
            sums = {name: checksum(tensor) for name, tensor in held.items()}
            shapes = {name: (DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in held.items()}
            said = {_MATRICES: json.dumps(matrices), _SUMS: json.dumps(sums)}
            save_file(
                held,
                unfinished / f"{number:04}.safetensors",
                metadata={**said, _DIGEST: _digest(matrices, sums, shapes)},
            )
        unfinished.rename(target)
    except Exception as error:  # the model is loaded: that it is not kept costs the next start, no answer
        log.warning("quantized weights are not kept in %s: %s", folder.path, error)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _parts(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """A model's tensors under the names of its parameters, and what those of quantized ones mean."""
    tensors: dict[str, torch.Tensor] = {}
    meanings: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()  # what is tied is kept once, under its first name: loading ties it again
    for path, module in model.named_modules():
        if isinstance(module, Holder):
            if id(module.matrix) in seen:
                continue
            seen.add(id(module.matrix))
            name = f"{path}.{module.parameter}".removesuffix(".")
            matrix, parts = module.matrix, module.matrix.parts()
            tensors |= {f"{name}|{part}": tensor for part, tensor in parts.items()}
            meanings[name] = {"kind": matrix.kind, "group": matrix.group, "parts": sorted(parts)}
    for name, tensor in model.state_dict().items():
        if name not in meanings and tensor.numel() and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    return tensors, meanings


def _shards(tensors: Mapping[str, torch.Tensor]) -> Iterator[list[str]]:
    """Names, the parts of a matrix together, in files of about a size."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        first_part = not names or names[-1].partition("|")[0] != name.partition("|")[0]
        if size > _SHARD_BYTES and first_part:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.nbytes
    if names:
        yield names
