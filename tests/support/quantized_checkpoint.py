"""Checkpoints in the formats of other programs, written bit by bit from the formats' descriptions.

Knows nothing of the readers: what is written here is what they must find.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_checkpoint import save_checkpoint
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Codes:
    """Of a matrix: codes [out, in] from 0, scales (float16) and zeros [out, groups], each input's group."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_of: np.ndarray
    bits: int

    def values(self) -> np.ndarray:
        """What the matrix is, in float32."""
        of_input = self.codes - self.zeros[:, self.group_of]
        return (self.scales.astype(np.float32)[:, self.group_of] * of_input).astype(np.float32)


def quantized(
    values: np.ndarray, bits: int = 4, group: int = 32, symmetric: bool = False, ordered: int | None = None
) -> Codes:
    """Round a matrix [out, in]; `ordered` is a seed by which inputs are given to groups in disorder."""
    outputs, inputs = values.shape
    group = inputs if group == -1 else group
    group_of = np.arange(inputs) // group
    if ordered is not None:
        group_of = np.random.default_rng(ordered).permutation(group_of)
    groups = int(group_of.max()) + 1
    scales = np.empty((outputs, groups), np.float16)
    zeros = np.empty((outputs, groups), np.int64)
    top = 2**bits - 1
    for number in range(groups):
        of_group = values[:, group_of == number]
        if symmetric:
            scale, zero = np.abs(of_group).max(1) / (top / 2), np.full(outputs, 2 ** (bits - 1))
        else:
            low, high = np.minimum(of_group.min(1), 0), np.maximum(of_group.max(1), 0)
            scale = (high - low) / top
            zero = np.rint(-low / np.maximum(scale, 1e-9)).clip(0, top)
        scales[:, number], zeros[:, number] = np.maximum(scale, 1e-4), zero
    codes = np.rint(values / scales.astype(np.float32)[:, group_of]) + zeros[:, group_of]
    return Codes(codes.clip(0, top).astype(np.int64), scales, zeros, group_of, bits)


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the last axis as one stream of bits, lowest first, cut into int32; padded with zeros."""
    stream = (codes[..., None] >> np.arange(bits)) & 1
    stream = stream.reshape(*codes.shape[:-1], -1)
    stream = np.pad(stream, [(0, 0)] * (codes.ndim - 1) + [(0, -stream.shape[-1] % 32)])
    found = (
        stream.reshape(*codes.shape[:-1], -1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)
    ).sum(-1)
    return found.astype(np.uint32).view(np.int32)


def gptq(matrix: Codes, version: int = 1) -> Parts:
    """Packed along the inputs; zeros along the outputs, in version 1 each less one."""
    zeros = matrix.zeros if version == 2 else (matrix.zeros - 1) % 2**matrix.bits
    return _tensors(
        qweight=words(matrix.codes, matrix.bits).T,
        qzeros=words(zeros.T, matrix.bits),
        scales=matrix.scales.T,
        g_idx=matrix.group_of.astype(np.int32),
    )


def awq(matrix: Codes) -> Parts:
    """Packed along the outputs; from the lowest bits of a word on come outputs 0, 2, 4, 6, 1, 3, 5, 7."""

    def shuffled(codes: np.ndarray) -> np.ndarray:
        return codes.reshape(len(codes), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(codes.shape)

    return _tensors(
        qweight=words(shuffled(matrix.codes.T), 4),
        qzeros=words(shuffled(matrix.zeros.T), 4),
        scales=matrix.scales.T,
    )


def packed(matrix: Codes) -> Parts:
    """compressed-tensors' pack-quantized: along the inputs; zeros, where there are any, along the outputs."""
    parts = _tensors(
        weight_packed=words(matrix.codes, matrix.bits),
        weight_scale=matrix.scales,
        weight_shape=np.array(matrix.codes.shape),
    )
    if (matrix.zeros != 2 ** (matrix.bits - 1)).any():
        parts |= _tensors(weight_zero_point=words(matrix.zeros.T, matrix.bits).T)
    if (np.diff(matrix.group_of) < 0).any():
        parts |= _tensors(weight_g_idx=matrix.group_of.astype(np.int32))
    return parts


def bytes_(matrix: Codes) -> Parts:
    """compressed-tensors' int-quantized: signed bytes."""
    assert matrix.bits == 8
    parts = _tensors(weight=(matrix.codes - 128).astype(np.int8), weight_scale=matrix.scales)
    if (matrix.zeros != 128).any():
        parts |= _tensors(weight_zero_point=(matrix.zeros - 128).astype(np.int8))
    return parts


def float8(values: np.ndarray, block: tuple[int, int] | None, name: str) -> tuple[Parts, np.ndarray]:
    """A matrix in float8 with a scale per block (None: one for all), and what it then is."""
    outputs, inputs = values.shape
    tall, wide = block or (outputs, inputs)
    scale = np.empty((-(-outputs // tall), -(-inputs // wide)), np.float32)
    spread = np.empty_like(values)
    for row, column in np.ndindex(*scale.shape):
        place = np.s_[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
        scale[row, column] = np.abs(values[place]).max() / 448
        spread[place] = scale[row, column]
    rounded = torch.from_numpy(values / spread).to(torch.float8_e4m3fn)
    parts = {"weight": rounded, name: torch.from_numpy(scale if block else scale.reshape(()))}
    return parts, (rounded.float().numpy() * spread).astype(np.float32)


def _tensors(**arrays: np.ndarray) -> Parts:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


Write = Callable[[str, np.ndarray], tuple[Parts, np.ndarray]]
"""Of a matrix's name and values: its tensors in the format, and what they stand for."""
LINEAR = re.compile(r"(?:proj|\bw[123])\.weight$")


def from_codes(pack: Callable[[Codes], Parts], **choices: Any) -> Write:
    """Every matrix quantized by the same choices.

    Where inputs are ordered, each matrix has an order of its own; but an expert's first two share one,
    as they share their inputs.
    """

    def write(name: str, values: np.ndarray) -> tuple[Parts, np.ndarray]:
        own = dict(choices)
        if own.get("ordered") is not None:
            shared = (
                name.replace(".up_proj", ".gate_proj").replace(".w3", ".w1") if "experts" in name else name
            )
            own["ordered"] += sum(place * byte for place, byte in enumerate(shared.encode()))
        matrix = quantized(values, **own)
        return pack(matrix), matrix.values()

    return write


@dataclass(frozen=True)
class Pair:
    """The same model twice: quantized, and in float32 with the values that the quantized one stands for."""

    quantized: Path
    dense: Path
    matrices: Mapping[str, np.ndarray]


def save_pair(
    folder: Path,
    family: str,
    write: Write,
    config: dict[str, Any],
    only: re.Pattern[str] = LINEAR,
    prepare: Callable[[dict[str, torch.Tensor]], None] = lambda _: None,
    **changes: Any,
) -> Pair:
    """A random model of a family, its matrices whose names match `only` in the format of `write`."""
    dense = save_checkpoint(folder / "dense", family, **changes)
    few = folder / "quantized"
    shutil.copytree(dense, few)
    tensors = load_file(dense / WEIGHTS)
    prepare(tensors)
    kept, stored, matrices = dict(tensors), {}, {}
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and only.search(name):
            parts, matrices[name] = write(name, tensor.numpy())
            kept[name] = torch.from_numpy(matrices[name])
            stored |= {f"{name.removesuffix('.weight')}.{part}": value for part, value in parts.items()}
        else:
            stored[name] = tensor
    save_file(kept, dense / WEIGHTS, metadata={"format": "pt"})
    save_file(stored, few / WEIGHTS, metadata={"format": "pt"})
    settings = json.loads((few / "config.json").read_text())
    (few / "config.json").write_text(json.dumps({**settings, "quantization_config": config}))
    return Pair(few, dense, matrices)
