"""Writes checkpoints as GGUF the way llama.cpp's convert_hf_to_gguf.py does, through the gguf package.

K-quants, which that package only reads, are encoded here from the descriptions of their blocks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Types
from safetensors.torch import load_file

ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "mixtral": "llama",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
CONTROL, UNUSED, NORMAL = 3, 5, 1

Kind = Callable[[str], str]
"""The type for a tensor, by the name that GGUF has for it."""


def write_gguf(folder: Path, path: Path, kind: str | Kind = "F32", **changes: Any) -> Path:
    """The checkpoint in a folder as one file. Vectors are always F32. `changes` are to the metadata."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config["model_type"]])
    architecture = writer.arch
    values = {f"{architecture}.{key}": value for key, value in _settings(config).items()}
    for key, value in {**values, **_vocabulary(folder, config), **changes}.items():
        if value is not None:
            _add(writer, key, value)
    for name, tensor in converted(folder).items():
        chosen = "F32" if tensor.ndim == 1 else kind if isinstance(kind, str) else kind(name)
        writer.add_tensor(name, encode(tensor, chosen), raw_dtype=Types[chosen])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(folder: Path) -> dict[str, np.ndarray]:
    """A checkpoint's tensors as float32 under llama.cpp's names, changed as its converter changes them."""
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    found: dict[str, np.ndarray] = {}
    for name, tensor in _stacked(load_file(folder / "model.safetensors")).items():
        values = tensor.float().numpy()
        if architecture == "llama" and (projection := re.search(r"\.([qk])_proj\.", name)):
            heads = config["num_attention_heads" if projection[1] == "q" else "num_key_value_heads"]
            rows = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
            values = rows.swapaxes(1, 2).reshape(values.shape)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        found[target] = values
    return found


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """The bytes of values [..., in] in a type."""
    if kind in _ENCODERS:
        return _ENCODERS[kind](values)
    return gguf.quants.quantize(np.ascontiguousarray(values, np.float32), Types[kind])


def decode(data: np.ndarray, kind: str) -> np.ndarray:
    """Values by the gguf package's own hand."""
    return gguf.quants.dequantize(data, Types[kind])


def _stacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The experts of a layer as one tensor."""
    found: dict[str, Any] = {}
    for name in sorted(tensors, key=lambda name: [int(n) for n in re.findall(r"\d+", name)]):
        if expert := re.fullmatch(r"(.*\.experts)\.\d+(\..*)", name):
            found.setdefault(expert[1] + expert[2], []).append(tensors[name])
        else:
            found[name] = tensors[name]
    return {name: torch.stack(part) if isinstance(part, list) else part for name, part in found.items()}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config["rope_parameters"]
    return {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
        "attention.sliding_window": config.get("sliding_window"),
        "attn_logit_softcapping": config.get("attn_logit_softcapping"),
        "final_logit_softcapping": config.get("final_logit_softcapping"),
        "expert_count": config.get("num_experts", config.get("num_local_experts")),
        "expert_used_count": config.get("num_experts_per_tok"),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
    }


def _vocabulary(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The byte-level tokenizer of a folder."""
    found = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"]: token["content"] for token in found["added_tokens"]}
    ids = {id: token for token, id in found["model"]["vocab"].items()} | special
    size = config["vocab_size"]
    types = [CONTROL if id in special else NORMAL if id in ids else UNUSED for id in range(size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in found["model"]["merges"]]
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text()) if settings_file.is_file() else {}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [ids.get(id, f"[PAD{id}]") for id in range(size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges or None,
        "tokenizer.ggml.eos_token_id": config.get("eos_token_id"),
        "tokenizer.ggml.bos_token_id": config.get("bos_token_id"),
        "tokenizer.chat_template": settings.get("chat_template"),
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _q4_k(values: np.ndarray) -> np.ndarray:
    """block_q4_K: d, dmin, 8 scales and 8 minima of 6 bits in 12 bytes, 128 bytes of codes."""
    groups = values.reshape(-1, 8, 32)
    low = np.maximum(0, -groups.min(-1))
    steps = np.maximum((groups.max(-1) + low) / 15, 1e-9)
    d, dmin = (part.max(-1, keepdims=True).astype(np.float16) for part in (steps / 63, low / 63))
    scales, minima = (
        np.clip(np.round(np.divide(part, unit, where=unit != 0, out=np.zeros_like(part))), 0, 63)
        for part, unit in ((steps, d.astype(np.float32)), (low, dmin.astype(np.float32)))
    )
    step = (d * scales)[..., None]
    shifted = groups + (dmin * minima)[..., None]
    codes = np.clip(np.round(np.divide(shifted, step, where=step != 0, out=np.zeros_like(groups))), 0, 15)
    scales, minima, codes = (part.astype(np.uint8) for part in (scales, minima, codes))
    packed = np.concatenate(
        [
            scales[:, :4] | ((scales[:, 4:] >> 4) << 6),
            minima[:, :4] | ((minima[:, 4:] >> 4) << 6),
            (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4),
        ],
        -1,
    )
    nibbles = codes[:, 0::2] | (codes[:, 1::2] << 4)  # groups 2i and 2i + 1 share their bytes
    halves = [part.view(np.uint8) for part in (d, dmin)]
    return np.concatenate([*halves, packed, nibbles.reshape(-1, 128)], -1).reshape(*values.shape[:-1], -1)


def _q6_k(values: np.ndarray) -> np.ndarray:
    """block_q6_K: 128 bytes of low halves, 64 of high pairs, 16 int8 scales, d."""
    groups = values.reshape(-1, 16, 16)
    steps = np.maximum(np.abs(groups).max(-1) / 31, 1e-9)
    d = (steps.max(-1, keepdims=True) / 127).astype(np.float16)
    scales = np.clip(np.round(steps / d.astype(np.float32)), 1, 127).astype(np.int8)
    step = d.astype(np.float32) * scales
    codes = (np.clip(np.round(groups / step[..., None]), -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate([codes[:, :, 0:2] & 15 | ((codes[:, :, 2:4] & 15) << 4)], -1).reshape(-1, 128)
    high = sum((codes[:, :, part] >> 4) << (2 * part) for part in range(4)).reshape(-1, 64)
    return np.concatenate([low, high, scales.view(np.uint8), d.view(np.uint8)], -1).reshape(
        *values.shape[:-1], -1
    )


_ENCODERS = {"Q4_K": _q4_k, "Q6_K": _q6_k}
