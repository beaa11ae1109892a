"""A GGUF file's metadata as the config.json that the model would have. Knows no torch, no transformers.

Keys: ggml's docs/gguf.md. What llama.cpp has in its code and not in its files (gemma's attention scale and
layer pattern, the normalized weights of qwen3moe's experts) is here too, from llama-model.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.load.errors import ModelError
from engine.load.gguf.header import Header
from profiles.shape import MOST_LAYERS


@dataclass(frozen=True)
class Family:
    """What an architecture of llama.cpp is in transformers."""

    model_type: str
    permuted: bool = False
    """Rows of q and k are in the order of the original Llama's rotary embedding, not in transformers'."""
    norm_offset: int = 0
    """Added to the weights of norms in the file."""
    four_norms: bool = False
    """Norms after attention and after the MLP, too."""
    scaled_embedding: bool = False
    """The embedding does more than look up: it is made dense."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", permuted=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "qwen3moe": Family("qwen3_moe"),
    "gemma": Family("gemma", norm_offset=1, scaled_embedding=True),
    "gemma2": Family("gemma2", norm_offset=1, four_norms=True, scaled_embedding=True),
    "gemma3": Family("gemma3_text", norm_offset=1, four_norms=True, scaled_embedding=True),
}
"""By the names that files have."""

EMBEDDING, HEAD, ROPE_FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"

_SLIDING_EVERY = {"gemma2": 2, "gemma3": 6}
"""All layers but each n-th have a sliding window."""
_LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the one size whose attention is scaled by hidden size / heads instead of the head's dimension."""
_MOST_FACTORS = 1024
_WINDOWS = {"gemma2": 4096, "gemma3": 1024}
_OTHER = "look for another conversion of this model"


def family_of(header: Header) -> Family:
    """Raises ModelError for an architecture that is not read."""
    found = FAMILIES.get(header.architecture)
    if found is None:
        raise ModelError(
            f"{header.path} has the architecture {header.architecture[:40]!r}, which is not read as GGUF",
            f"known are {', '.join(FAMILIES)}; other models may load from safetensors",
        )
    return found


def config_of(header: Header) -> dict[str, Any]:
    """What config.json would hold. Raises ModelError."""
    family, read = family_of(header), _Metadata(header)
    layers, hidden = read.count("block_count"), read.count("embedding_length")
    heads = read.count("attention.head_count")
    head_dim = read.count("attention.key_length", default=read.count("rope.dimension_count", hidden // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if read.count(key, head_dim) != head_dim:
            raise read.refusal(f"{key} is not the head's dimension {head_dim}")
    _check_tensors(header, layers, hidden)
    config: dict[str, Any] = {
        "model_type": family.model_type,
        "vocab_size": header.tensors[EMBEDDING].shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": read.count("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": read.count("context_length"),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": HEAD not in header.tensors,
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        "rope_parameters": _rope(read),
    }
    if "blk.0.attn_q.bias" in header.tensors and header.architecture == "llama":
        config["attention_bias"] = True
    if header.architecture == "qwen3moe":
        config |= {
            "intermediate_size": read.count("feed_forward_length", hidden),  # no layer is without experts
            "moe_intermediate_size": read.count("expert_feed_forward_length"),
            "num_experts": read.count("expert_count"),
            "num_experts_per_tok": read.count("expert_used_count"),
            "norm_topk_prob": True,
        }
    elif header.metadata.get(f"{header.architecture}.expert_count"):
        if header.architecture != "llama":
            raise read.refusal("it has experts")
        config |= {  # llama.cpp has no architecture of its own for it
            "model_type": "mixtral",
            "intermediate_size": read.count("feed_forward_length"),
            "num_local_experts": read.count("expert_count"),
            "num_experts_per_tok": read.count("expert_used_count"),
            "sliding_window": None,
        }
    else:
        config["intermediate_size"] = read.count("feed_forward_length")
    if header.architecture in _SLIDING_EVERY:
        config |= _sliding(header.architecture, read, config)
    return config


def _check_tensors(header: Header, layers: int, hidden: int) -> None:
    """The metadata and the tensors are of one model, before anything is made as large as they say."""
    last, embedding = f"blk.{layers - 1}.attn_norm.weight", header.tensors.get(EMBEDDING)
    if layers > MOST_LAYERS or last not in header.tensors or embedding is None:
        missing = EMBEDDING if embedding is None else f"layers up to {layers}"
        raise ModelError(f"{header.path} lacks {missing}", "download the file again")
    if embedding.shape[1:] != (hidden,):
        raise ModelError(
            f"{header.path} is corrupt: embeddings of {embedding.shape} for a hidden size of {hidden}",
            "download the file again",
        )


def _sliding(architecture: str, read: _Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 have beyond a Llama."""
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    every = read.count("attention.sliding_window_pattern", _SLIDING_EVERY[architecture])
    largest = layers == _LARGEST[architecture]
    scale = config["hidden_size"] // config["num_attention_heads"] if largest else head_dim
    found: dict[str, Any] = {
        "sliding_window": read.count("attention.sliding_window", _WINDOWS[architecture]),
        "layer_types": [
            "sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)
        ],
        "query_pre_attn_scalar": scale,
        "attn_logit_softcapping": read.number("attn_logit_softcapping", None),
        "final_logit_softcapping": read.number("final_logit_softcapping", None),
    }
    if architecture == "gemma2":
        found["attn_logit_softcapping"] = found["attn_logit_softcapping"] or 50.0
        found["final_logit_softcapping"] = found["final_logit_softcapping"] or 30.0
    else:
        local = read.number("rope.local.freq_base", read.number("rope.freq_base_swa", 10_000.0))
        found["rope_parameters"] = {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    return found


def _rope(read: _Metadata) -> dict[str, Any]:
    """The rotary embedding, its scaling included, as transformers states it."""
    default = 1_000_000.0 if read.architecture == "gemma3" else 10_000.0
    theta = read.number("rope.freq_base", read.number("rope.global.freq_base", default))
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    kind = read.text("rope.scaling.type", "none")
    factor = read.number("rope.scaling.factor", read.number("rope.scale_linear", 1.0))
    original = read.count("rope.scaling.original_context_length", read.count("context_length"))
    if ROPE_FACTORS in read.tensors:
        # Llama 3's scaling: of it the file has what each frequency is divided by, as LongRoPE states it.
        factors = _factors(read)
        found |= {"rope_type": "longrope", "factor": 1.0, "attention_factor": 1.0}
        found |= {"short_factor": factors, "long_factor": factors}
        found["original_max_position_embeddings"] = read.count("context_length")
    elif kind == "linear" or (kind == "none" and factor != 1):
        found |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        found |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    elif kind != "none":
        raise read.refusal(f"its rotary embedding is scaled by {kind[:40]!r}")
    return found


def _factors(read: _Metadata) -> list[float]:
    """The values of the tensor that every frequency is divided by."""
    tensor = read.tensors[ROPE_FACTORS]
    if tensor.type.name != "F32" or tensor.elements > _MOST_FACTORS:
        raise read.refusal(f"{ROPE_FACTORS} are {tensor.elements} values in {tensor.type.name}")
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        return list(struct.unpack(f"<{tensor.elements}f", file.read(tensor.nbytes)))


class _Metadata:
    """The values that belong to a header's architecture, checked."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.architecture = header.architecture
        self.tensors = header.tensors

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, value)
        return value

    def number(self, key: str, default: Any = ...) -> Any:
        """A positive number, or the default, which may be None."""
        value = self._value(key, default)
        if value is default:
            return value
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self._wrong(key, value)
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self._value(key, default)
        return value if isinstance(value, str) else default

    def refusal(self, why: str) -> ModelError:
        return ModelError(f"{self._header.path} is a {self.architecture} that is not read: {why}", _OTHER)

    def _value(self, key: str, default: Any) -> Any:
        value = self._header.metadata.get(f"{self.architecture}.{key}")
        if value is None and default in (None, ...):
            if default is ...:
                raise self._lacks(key)
            return None
        return default if value is None else value

    def _lacks(self, key: str) -> ModelError:
        return ModelError(f"{self._header.path} lacks the metadata {self.architecture}.{key}", _OTHER)

    def _wrong(self, key: str, value: object) -> ModelError:
        if value is None:
            return self._lacks(key)
        found = repr(value)[:60]
        return ModelError(f"{self._header.path}: {self.architecture}.{key} cannot be {found}", _OTHER)
