"""Puts quantized matrices into a model while transformers loads it, one parameter after another.

What arrives quantized is put in place; what arrives as values is quantized first, where that was asked for.
Nothing is held twice: the peak is what is there already and one parameter's values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from engine.load.matrices import Passing
from engine.nn.quant_experts import replace_parameter
from engine.nn.quant_modules import QuantEmbedding, QuantLinear
from engine.nn.quantized import Quantized

Quantize = Callable[[str, torch.Tensor], Quantized | None]
"""Of a parameter's name and its values [..., out, in]: quantized, or None for what stays as it is."""

_METHOD = "mull"
_Found = TypeVar("_Found", Quantized, torch.Tensor)


def keep(_name: str, _values: torch.Tensor) -> None:
    """Nothing but what the checkpoint has quantized."""


@register_quantization_config(_METHOD)
class LoadingConfig(QuantizationConfigMixin):
    """How transformers is told to load through this file."""

    def __init__(
        self,
        quantize: Quantize = keep,
        dtype: torch.dtype = torch.float32,
        on_error: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`dtype` is of looked-up embeddings; `on_error` is told why, where a matrix has no place."""
        self.quant_method = _METHOD
        self.quantize = quantize
        self.dtype = dtype
        self.on_error = on_error

    def to_dict(self) -> dict[str, Any]:
        """What can be written down; transformers logs it."""
        return {"quant_method": _METHOD}


@register_quantizer(_METHOD)
class _Quantizer(HfQuantizer):
    """Has every matrix pass through `_Place`; loading is then in order, one at a time."""

    requires_calibration = False
    quantization_config: LoadingConfig

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        path, _dot, name = param_name.rpartition(".")
        owner = model.get_submodule(path)
        return getattr(getattr(owner, name, None), "ndim", 0) > 1

    def get_quantize_ops(self) -> ConversionOps:
        return _Place(self.quantization_config)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        self.remove_quantization_config(model)
        return model

    def is_serializable(self, **_: Any) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def loader_for(config: LoadingConfig) -> HfQuantizer:
    """What `from_pretrained` makes of a `LoadingConfig`."""
    return _Quantizer(config, pre_quantized=False)


def can_hold(module: nn.Module, name: str) -> bool:
    """Whether one of a module's parameters can be a quantized matrix; not that of a scaled embedding."""
    if isinstance(module, nn.Linear) or type(module) is nn.Embedding:
        return name == "weight"
    return getattr(getattr(module, name, None), "ndim", 0) == 3 and hasattr(module, "num_experts")


def tie_head(model: Any) -> None:
    """Have a head that is tied to a quantized embedding compute with its matrix."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, QuantEmbedding) and getattr(head, "weight", None) is embedding.weight:
        model.set_output_embeddings(QuantLinear(embedding.matrix, head.bias))


class _Place(ConversionOps):
    def __init__(self, config: LoadingConfig) -> None:
        self._config = config

    def convert(
        self, input_dict: dict[str, Any], *, model: Any, missing_keys: set[str] | None = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        """Put quantized parameters in place; what stays a tensor is returned, for transformers to do so."""
        left = {}
        for target, found in input_dict.items():
            value = found[0] if isinstance(found, list) else found
            owner, _dot, name = target.rpartition(".")
            module = model.get_submodule(owner)
            matrix = self._matrix(target, module, getattr(module, name), value)
            if isinstance(matrix, torch.Tensor):
                left[target] = matrix
                continue
            self._put(model, owner, module, name, matrix)
            if missing_keys is not None:
                missing_keys.discard(target)
        return left

    def _matrix(
        self, target: str, module: nn.Module, parameter: torch.Tensor, value: Passing | torch.Tensor
    ) -> Quantized | torch.Tensor:
        """What the parameter becomes: a tensor, as the module has it, where it cannot hold another."""
        transposed = getattr(module, "is_transposed", isinstance(module, Conv1D))
        held = can_hold(module, target.rpartition(".")[2])
        expected = tuple((parameter.mT if transposed else parameter).shape)
        if isinstance(value, Passing):
            matrix = self._fitting(target, value.matrix, expected)
            if held:
                return matrix
            dense = matrix.dequantize(self._config.dtype)
            return dense.mT.contiguous() if transposed else dense
        values = self._fitting(target, value.mT if transposed else value, expected)
        try:
            quantized = self._config.quantize(target, values) if held else None
        except ValueError as error:
            self._config.on_error(f"{target}: {error}")
            raise
        return value if quantized is None else quantized

    def _fitting(self, target: str, found: _Found | None, expected: tuple[int, ...]) -> _Found:
        """What was found, if it has the shape that the model has there: transformers checks it no more."""
        cause = "its parts make no whole: one is missing, or they are stored in a way that is not known"
        if found is not None:
            if tuple(found.shape) == expected:
                return found
            cause = f"it has the shape {tuple(found.shape)} instead of {expected}"
        self._config.on_error(f"{target}: {cause}")
        raise ValueError(cause)

    def _put(self, model: Any, owner: str, module: nn.Module, name: str, matrix: Quantized) -> None:
        if isinstance(module, nn.Linear):
            model.set_submodule(owner, QuantLinear(matrix, module.bias))
        elif isinstance(module, nn.Embedding):
            model.set_submodule(owner, QuantEmbedding(matrix, self._config.dtype))
        else:
            replace_parameter(module, name, matrix)
