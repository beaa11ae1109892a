"""What loading a checkpoint comes to, before any value is read: the same loading, done with shapes alone.

So what is foreseen and what is loaded go by one rule: which of a model's parameters can be quantized, which
tensors of the files each is made of, and in what shape.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from engine.load.checkpoint import Checkpoint
from engine.load.errors import ModelError
from engine.load.plan import QuantPlan
from engine.load.quantizer import LoadingConfig, loader_for
from engine.load.quiet import quiet
from engine.nn.quant_modules import matrices_of

_DOWNLOAD = "download the model again, config.json included"


@dataclass(frozen=True)
class Foreseen:
    """What a checkpoint's parameters will be in memory."""

    matrices: Mapping[str, tuple[int, ...]]
    """Shapes [..., out, in], by the model's own names, of those that a plan may quantize."""
    values: int
    """How many others there are, of those that are not quantized in the files."""
    quantized_bytes: int
    """Of the matrices that are."""
    quantization: str | None
    """How these are quantized, as a person knows it."""
    tied: bool
    """The head has the embedding's matrix."""

    @property
    def parameters(self) -> int:
        """Values that are not quantized in the files."""
        return self.values + sum(map(math.prod, self.matrices.values()))

    def memory(self, plan: QuantPlan, itemsize: int) -> int:
        """Bytes that the weights take by a plan, where a value that is not quantized takes `itemsize`."""
        planned = sum(
            math.prod(shape) * plan.bytes_each(name, shape, itemsize) for name, shape in self.matrices.items()
        )
        return self.quantized_bytes + itemsize * self.values + round(planned)


def foresee(checkpoint: Checkpoint) -> Foreseen:
    """Raises ModelError where a tensor is missing or has another shape than the configuration asks for."""
    matrices: dict[str, tuple[int, ...]] = {}
    errors: list[str] = []

    def noted(name: str, values: torch.Tensor) -> None:
        matrices[name] = tuple(values.shape)

    loader = loader_for(LoadingConfig(noted, on_error=errors.append))
    try:
        with quiet():
            with torch.device("meta"):
                model = checkpoint.model_class(copy.deepcopy(checkpoint.config))
            missing = _load(model, checkpoint.source.outline(), loader, errors)
    except ModelError:
        raise
    except Exception as error:  # whatever transformers met in files that a person named
        cause = errors[0] if errors else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ModelError(f"{checkpoint.folder} cannot be loaded: {cause}", _DOWNLOAD) from error
    if errors:
        raise ModelError(f"{checkpoint.folder} is not the model of its configuration: {errors[0]}", _DOWNLOAD)
    if missing:
        raise ModelError(
            f"{checkpoint.folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}",
            "download the model completely",
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())  # each once, tied or not
    return Foreseen(
        matrices=matrices,
        values=parameters - sum(map(math.prod, matrices.values())),
        quantized_bytes=sum(matrix.nbytes for matrix in matrices_of(model)),
        quantization=checkpoint.source.quantization,
        tied=bool(checkpoint.config.tie_word_embeddings),
    )


def _load(model: Any, outline: dict[str, Any], loader: Any, errors: list[str]) -> list[str]:
    """Put shapes into a model; the names of parameters that there are none for. Adds to `errors`."""
    loading = LoadStateDictConfig(
        device_map={"": "meta"},
        dtype=torch.float32,
        hf_quantizer=loader,
        weight_mapping=get_model_conversion_mapping(model, None, loader),
    )
    info, _ = convert_and_load_state_dict_in_model(model, outline, loading)
    for name, found, expected in sorted(info.mismatched_keys):
        errors.append(f"{name}: it has the shape {tuple(found)} instead of {tuple(expected)}")
    for name, cause in info.conversion_errors.items():
        errors.append(f"{name}: {' '.join(str(cause).split())[:200]}")
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(info)
    return sorted(info.missing_keys)
