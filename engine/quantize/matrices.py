"""Which of a checkpoint's tensors are matrices of linears, and so can be quantized. Reads no values."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

from engine.load.checkpoint import Checkpoint, inspect
from engine.load.errors import ModelError
from engine.load.foresee import foresee
from engine.load.locate import locate
from engine.load.plan import QuantPlan
from engine.nn.quantized import Kind

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_EXPERT = re.compile(r"\.experts\.\d+\.")
_HEAD = "lm_head"
_NEXT = "use --quant, which loads it so, or name a checkpoint in Hugging Face format"


@dataclass(frozen=True)
class Matrices:
    """Modules of a checkpoint: those whose matrix is quantized, each to its kind; linears that are not."""

    kinds: dict[str, Kind]
    plain: list[str]


def plain_checkpoint(model: str) -> Checkpoint:
    """A checkpoint in Hugging Face format that is not quantized yet. Raises ModelError."""
    path = locate(model)
    if path.is_file():
        raise ModelError(f"{path} is a GGUF file", "name the same model in Hugging Face format")
    checkpoint = inspect(path)
    if (already := checkpoint.source.quantization) is not None:
        raise ModelError(f"{path} is quantized already ({already})", "name the unquantized model")
    if checkpoint.source.dtype not in BYTES:
        raise ModelError(f"{path} has its weights in {checkpoint.source.dtype}, not in 16 or 32 bits", _NEXT)
    foresee(checkpoint)
    return checkpoint


def find_matrices(checkpoint: Checkpoint, plan: QuantPlan) -> Matrices:
    """Linears by `plan`, those of single experts among them; embeddings and a head tied to them stay.

    Raises ModelError where there are none, or where a layer's experts are one tensor.
    """
    try:
        with torch.device("meta"):
            modules = dict(checkpoint.model_class(checkpoint.config).named_modules())
    except Exception as error:  # whatever transformers makes of a configuration from elsewhere
        cause = " ".join(str(error).split())[:200]
        raise ModelError(f"{checkpoint.folder} is no usable model: {cause}", "download it again") from error
    linears = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
    looked_up = {name for name, module in modules.items() if isinstance(module, nn.Embedding)}
    tied = bool(checkpoint.config.tie_word_embeddings)
    kinds: dict[str, Kind] = {}
    plain = set(linears)
    for name, shape in checkpoint.source.plain.items():
        module = name.removesuffix(".weight")
        if len(shape) == 3 and min(shape[1:]) > 1:  # a convolution has one input each
            raise ModelError(
                f"{checkpoint.folder}: {name} has all experts of a layer in one tensor, for which the format "
                "has no place",
                "use --quant, which loads it quantized",
            )
        if len(shape) != 2 or module == name or module in looked_up:
            continue
        known = module in linears or _EXPERT.search(name)
        kind = plan.kind(name, shape) if known and not (tied and module.endswith(_HEAD)) else None
        if kind is not None:
            kinds[module] = kind
            plain.discard(module)
        elif known or module.endswith((".gate", ".router")):
            plain.add(module)
    if all(module.endswith(_HEAD) for module in kinds):
        raise ModelError(f"{checkpoint.folder} has layers without linears that could be quantized", _NEXT)
    return Matrices(kinds, sorted(plain))


def own_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of its tensors in the files."""
    return sum(checkpoint.source.sizes.values())
