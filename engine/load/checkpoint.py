"""From a checkpoint's folder to a model in memory: checked first, without network, pickle or foreign code.

Knows transformers' loading; nothing of pages or sampling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.load.errors import ModelError
from engine.load.weights import Weights, check_weights
from profiles.shape import ModelShape, UnsupportedModel, shape_from_config

Progress = Callable[[str, int | None, int | None], None]
"""Called with a stage, and bytes done and in total where they are known."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PAGED_LAYERS = {"full_attention", "sliding_attention"}
STOCK_CACHE_FAMILIES = ("deepseek_v2", "deepseek_v3", "lfm2")
"""Families that cannot page and were found to run rightly on transformers' own cache."""
_NOT_PAGED = "use a decoder-only model with ordinary attention, such as Llama, Qwen3, Mistral or Gemma"


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds, checked and not yet loaded."""

    folder: Path
    config: Any
    """transformers' configuration."""
    model_class: Any
    shape: ModelShape
    weights: Weights
    paged: bool
    """Its keys and values can lie in pages; else it runs on transformers' own cache."""


def inspect(folder: Path) -> Checkpoint:
    """Check everything that can be checked before weights are read. Raises ModelError."""
    raw = read_json(folder / "config.json")
    _refuse_quantized(folder, raw)
    config, model_class = _resolve(folder, raw)
    paged = _can_page(folder, raw, config, model_class)
    try:
        shape = shape_from_config(config.to_dict())
    except UnsupportedModel as error:
        raise ModelError(f"{folder / 'config.json'}: {error}", _NOT_PAGED) from error
    return Checkpoint(folder, config, model_class, shape, check_weights(folder), paged)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}", "download the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", "download the file again")
    return value


def _refuse_quantized(folder: Path, raw: dict[str, Any]) -> None:
    path = folder / "config.json"
    quantization = raw.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{path}: quantized checkpoints ({str(method or 'unknown method')[:40]}) cannot be loaded yet",
            "use the model's unquantized repository",
        )


def _resolve(folder: Path, raw: dict[str, Any]) -> tuple[Any, Any]:
    """transformers' configuration and causal language model class for this config.json."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    path = folder / "config.json"
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
    # own code: a file from elsewhere may do neither.
    values = {key: value for key, value in raw.items() if not key.startswith("_") and key != "auto_map"}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(values)
    except Exception as error:  # a config is untrusted: transformers raises whatever the bad value led to
        raise ModelError(f"{path} is not a usable configuration: {_one_line(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{path}: {model_type} is not a model that writes text", _NOT_PAGED)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return config, model_class[0] if isinstance(model_class, tuple) else model_class


def _can_page(folder: Path, raw: dict[str, Any], config: Any, model_class: Any) -> bool:
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
        raise ModelError(
            f"{folder / 'config.json'}: {raw['model_type']} is {cause}, not supported", _NOT_PAGED
        )
    return cause is None


def load_model(checkpoint: Checkpoint, dtype: str, device: str, attention: str, progress: Progress) -> Any:
    """The model in memory, in eval mode, with the attention function registered under `attention`.

    `dtype` is fp32, bf16 or fp16. Raises ModelError where the checkpoint and its configuration disagree.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging

    total = checkpoint.weights.total_bytes
    hook = logging.set_tqdm_hook(lambda _factory, args, _kwargs: _Loading(args, checkpoint.weights, progress))
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    progress("loading weights", 0, total)
    try:
        model, report = checkpoint.model_class.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config,
            dtype=_DTYPES[dtype],
            attn_implementation=attention,
            generation_config=GenerationConfig(),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # whatever transformers met in a folder that a person named
        raise ModelError(f"{checkpoint.folder} cannot be loaded: {_one_line(error)}") from error
    finally:
        logging.set_tqdm_hook(hook)
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{checkpoint.folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}",
            "download the model completely",
        )
    progress("loading weights", total, total)
    return model.eval().requires_grad_(False).to(device)


class _Loading:
    """Stands in for transformers' progress bar: passes the items on and reports the bytes of each."""

    def __init__(self, args: tuple[Any, ...], weights: Weights, progress: Progress) -> None:
        self._items: Iterable[Any] = args[0] if args else ()
        self._weights = weights
        self._progress = progress

    def __iter__(self) -> Iterator[Any]:
        done = 0
        for item in self._items:
            yield item
            if isinstance(item, tuple):  # (first target name, a mapping that knows the checkpoint's names)
                targets = getattr(item[1], "layer_targets", {})
                names = {name for sources in targets.values() for name in sources}
                done += sum(self._weights.tensor_bytes.get(name, 0) for name in names)
                self._progress("loading weights", done, self._weights.total_bytes)

    def __enter__(self) -> _Loading:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _steps: int = 1) -> None:
        """Bars that are advanced by hand are not shown."""

    def close(self) -> None:
        """There is nothing to close."""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
