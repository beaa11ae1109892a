"""Weights that were quantized as they were loaded, on disk: the next start reads them and not the model's.

They lie under a key of the checkpoint's files and of how they were quantized, in the names of the model's own
parameters. What is missing, cut short or not readable is quantized again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine.load.errors import ModelError
from engine.load.identity import identity
from engine.load.matrices import Lazy
from engine.load.plan import QuantPlan, way
from engine.load.source import Source
from engine.load.weights import read_header
from engine.nn.quant_modules import Holder
from engine.nn.quantized import Quantized
from engine.quantized_folder import QuantizedFolder, mark_used

_FORMAT = 1
_SHARD_BYTES = 256 * 2**20
"""A file's tensors are held twice while it is written."""
_MATRICES = "matrices"

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
        self._matrices: dict[str, tuple[Path, dict[str, Any]]] = {}
        self._tensors: dict[str, Path] = {}
        self.sizes: dict[str, int] = {}
        for file in self.files:
            header = read_header(file)
            with safe_open(file, framework="pt") as opened:
                matrices = json.loads((opened.metadata() or {}).get(_MATRICES, "{}"))
            for name_, meaning in matrices.items():
                self._matrices[name_] = (file, meaning)
            for tensor, stored in header.items():
                parameter = tensor.partition("|")[0]
                self.sizes[parameter] = self.sizes.get(parameter, 0) + stored.nbytes
                if "|" not in tensor:
                    self._tensors[tensor] = file

    @contextmanager
    def open(self, mapped: bool = True) -> Iterator[dict[str, Any]]:
        with ExitStack() as stack:
            handles = {file: stack.enter_context(safe_open(file, framework="pt")) for file in self.files}
            found: dict[str, Any] = {
                name: handles[file].get_slice(name) for name, file in self._tensors.items()
            }
            for name, (file, meaning) in self._matrices.items():
                found[name] = Lazy(_reader(handles[file], name, meaning), self.sizes[name])
            yield found


def _reader(handle: Any, name: str, meaning: Mapping[str, Any]) -> Any:
    def read() -> Quantized:
        parts = {part: handle.get_tensor(f"{name}|{part}") for part in meaning["parts"]}
        return Quantized(kind=meaning["kind"], group=meaning["group"], **parts)

    return read


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
    target, partial = folder.model(key), folder.unnamed(key)
    try:
        tensors, meanings = _parts(model)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if target.exists() or not folder.make_room(size):
            return
        partial.mkdir(mode=0o700, parents=True)
        for number, names in enumerate(_shards(tensors)):
            parameters = {name.partition("|")[0] for name in names}
            matrices = {name: meanings[name] for name in parameters if name in meanings}
            save_file(
                {name: tensors[name].detach().cpu().contiguous() for name in names},
                partial / f"{number:04}.safetensors",
                metadata={_MATRICES: json.dumps(matrices)},
            )
        partial.rename(target)
    except Exception as error:  # the model is loaded: that it is not kept costs the next start, no answer
        log.warning("quantized weights are not kept in %s: %s", folder.path, error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
