"""Checks a checkpoint before it is loaded: without network, pickle or foreign code.

Knows transformers' configurations; nothing of weights' values, pages or sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.load.errors import ModelError
from engine.load.gguf.config import config_of
from engine.load.gguf.header import read_header
from engine.load.gguf.source import GgufSource
from engine.load.json_file import read_json
from engine.load.schemes import stated_quantization
from engine.load.source import SafetensorsSource, Source
from profiles.shape import ModelShape, UnsupportedModel, shape_from_config

_PAGED_LAYERS = {"full_attention", "sliding_attention"}
STOCK_CACHE_FAMILIES = ("deepseek_v2", "deepseek_v3", "lfm2")
"""Families that cannot page and were found to run rightly on transformers' own cache."""
_NOT_PAGED = "use a decoder-only model with ordinary attention, such as Llama, Qwen3, Mistral or Gemma"


@dataclass(frozen=True)
class Checkpoint:
    """What a folder or a GGUF file holds, checked and not yet loaded."""

    folder: Path
    """Or the file."""
    config: Any
    """transformers' configuration."""
    model_class: Any
    shape: ModelShape
    source: Source
    paged: bool
    """Its keys and values can lie in pages; else it runs on transformers' own cache."""


def inspect(folder: Path) -> Checkpoint:
    """Check everything that can be checked before weights are read. Raises ModelError."""
    header = read_header(folder, texts=False) if folder.is_file() else None
    path = folder if header else folder / "config.json"
    raw = config_of(header) if header else read_json(path)
    config, model_class = _resolve(path, raw)
    paged = _can_page(path, raw, config, model_class)
    source: Source
    if header:
        source = GgufSource(header)
    else:
        source = SafetensorsSource(folder, stated_quantization(raw))
        _settle_ties(config, model_class, source)
    try:
        shape = shape_from_config(config.to_dict())
    except UnsupportedModel as error:
        raise ModelError(f"{path}: {error}", _NOT_PAGED) from error
    return Checkpoint(folder, config, model_class, shape, source, paged)


def _resolve(path: Path, raw: dict[str, Any]) -> tuple[Any, Any]:
    """transformers' configuration and causal language model class for the config.json that a file holds."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        if "auto_map" in raw:
            raise ModelError(
                f"{path} asks to run code of its own (auto_map), which is not done",
                "use a repository whose architecture transformers itself implements",
            )
        found = f"the architecture {model_type[:60]!r}" if isinstance(model_type, str) else "no model_type"
        raise ModelError(f"{path} has {found}, which transformers does not know", "upgrade transformers")
    # Keys with a leading underscore steer transformers' own machinery, and auto_map names a repository's
    # own code: a file from elsewhere may do neither. How it is quantized is for our own readers.
    left_out = ("auto_map", "quantization_config", "quantization")
    values = {key: value for key, value in raw.items() if not key.startswith("_") and key not in left_out}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:  # a config is untrusted: transformers raises whatever the bad value led to
        raise ModelError(f"{path} is not a usable configuration: {_one_line(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{path}: {model_type} is not a model that writes text", _NOT_PAGED)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return config, model_class[0] if isinstance(model_class, tuple) else model_class


def _can_page(path: Path, raw: dict[str, Any], config: Any, model_class: Any) -> bool:
    """Whether a model can run on pages of keys and values. Raises ModelError where it cannot run at all."""
    layers = set(getattr(config, "layer_types", None) or ())
    cause = None
    if config.is_encoder_decoder:
        cause = "an encoder-decoder"
    elif config.get_text_config() is not config:
        cause = "a multimodal model"
    elif getattr(config, "kv_lora_rank", None):
        cause = "a model with latent attention (MLA)"
    elif getattr(model_class, "_is_stateful", False) or not hasattr(config, "num_attention_heads"):
        cause = "a recurrent model"
    elif layers - _PAGED_LAYERS:
        cause = f"a model with {sorted(layers - _PAGED_LAYERS)[0]} layers"
    elif not getattr(model_class, "_supports_attention_backend", False):
        cause = "a model whose attention cannot be replaced"
    if cause and (raw["model_type"] not in STOCK_CACHE_FAMILIES or config.is_encoder_decoder):
        raise ModelError(f"{path}: {raw['model_type']} is {cause}, not supported", _NOT_PAGED)
    return cause is None


def _settle_ties(config: Any, model_class: Any, source: SafetensorsSource) -> None:
    """Some files have a head that is tied to the embedding all the same: a copy is left out, another is kept,
    and then it is not tied, as transformers has it. Raises ModelError."""
    if not config.tie_word_embeddings:
        return
    for head, embedding in (getattr(model_class, "_tied_weights_keys", None) or {}).items():
        stored = next((name for name in source.plain if f".{embedding}".endswith(f".{name}")), None)
        try:
            if head in source.plain and stored is not None and not source.drop_copy(head, stored):
                config.tie_word_embeddings = False
        except OSError as error:
            raise ModelError(f"{source.files[0]} cannot be read: {error.strerror}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
