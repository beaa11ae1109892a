"""Which of transformers' parameters a GGUF file's tensors are. Knows no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from engine.load.errors import ModelError
from engine.load.gguf.config import EMBEDDING, ROPE_FACTORS, Family, family_of
from engine.load.gguf.header import Header, Tensor

_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_EXPERTS = {"ffn_gate_exps": "gate_up_proj", "ffn_up_exps": "gate_up_proj", "ffn_down_exps": "down_proj"}
"""One parameter for all experts of a layer; gate comes before up."""
_IGNORED = re.compile(r"(v|mm)\..*|blk\.\d+\.attn_rot_embd|" + re.escape(ROPE_FACTORS))
"""A part that sees, of which nothing is used, and rotary embeddings, which are computed."""
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")


@dataclass(frozen=True)
class Parameter:
    """One of transformers' parameters, made of one tensor or of the outputs of several."""

    name: str
    tensors: tuple[Tensor, ...]
    heads: int | None = None
    """Whose rows are to be put into transformers' order."""
    offset: int = 0
    """To be taken from its values."""
    dense: bool = False
    """Not to stay quantized in any case."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.tensors[0].shape
        if len(self.tensors) == 1:
            return first
        return (*first[:-2], sum(tensor.shape[-2] for tensor in self.tensors), first[-1])

    @property
    def kept(self) -> bool:
        """Stays quantized."""
        first = self.tensors[0]
        alike = all(tensor.type == first.type for tensor in self.tensors)
        return alike and len(first.shape) > 1 and first.type.kept is not None and not self.dense

    def memory(self, itemsize: int) -> int:
        """Bytes once loaded, where each value that is not quantized takes `itemsize`."""
        kept = self.tensors[0].type.kept if self.kept else None
        return round(self.elements * (itemsize if kept is None else kept))


def parameters_of(header: Header) -> dict[str, Parameter]:
    """By their names. Raises ModelError for a tensor that the family does not have."""
    family = family_of(header)
    found: dict[str, Parameter] = {}
    for name, tensor in sorted(header.tensors.items()):  # gate before up
        if _IGNORED.fullmatch(name):
            continue
        target = _target(name, family)
        if target is None:
            raise ModelError(
                f"{header.path} has the tensor {name[:60]!r}, which a {header.architecture} has no place for",
                "look for another conversion of this model",
            )
        if ".experts." in target and len(tensor.shape) != 3:
            raise ModelError(
                f"{header.path} has the tensor {name[:60]!r} in {len(tensor.shape)} dimensions, "
                "where the experts of a layer take 3",
                "look for another conversion of this model",
            )
        others = found[target].tensors if target in found else ()
        offset = family.norm_offset if "norm" in name else 0
        dense = family.scaled_embedding and name == EMBEDDING
        found[target] = Parameter(target, (*others, tensor), _heads(header, family, name), offset, dense)
    return found


def quantization_of(parameters: Iterable[Parameter]) -> str | None:
    """The types of quantized matrices, the most frequent first, and which of them are made dense."""
    kept: Counter[str] = Counter()
    dense: Counter[str] = Counter()
    for parameter in parameters:
        for tensor in parameter.tensors:
            if len(tensor.shape) > 1 and not tensor.type.plain:
                (kept if parameter.kept else dense)[tensor.type.name] += tensor.elements
    names = [name for name, _ in kept.most_common()]
    names += [f"{name} (made dense)" for name, _ in dense.most_common()]
    return f"gguf {', '.join(names)}" if names else None


def stored_dtype(parameters: Iterable[Parameter]) -> str:
    """In which most values of matrices are, as safetensors names it; quantized ones count as F16."""
    counts: Counter[str] = Counter()
    for parameter in parameters:
        for tensor in parameter.tensors:
            if len(tensor.shape) > 1:  # norms are always float32
                counts[tensor.type.name if tensor.type.plain else "F16"] += tensor.elements
    return counts.most_common(1)[0][0]


def _target(name: str, family: Family) -> str | None:
    parts = _NAME.fullmatch(name)
    if parts is None:
        return None
    layer, stem, leaf = parts.groups()
    if layer is None:
        return f"{_MODEL[stem]}.{leaf}" if stem in _MODEL else None
    if stem in _EXPERTS:
        return f"model.layers.{layer}.mlp.experts.{_EXPERTS[stem]}"
    known = {**_LAYER, **_FOUR_NORMS} if family.four_norms else _LAYER
    return f"model.layers.{layer}.{known[stem]}.{leaf}" if stem in known else None


def _heads(header: Header, family: Family, name: str) -> int | None:
    """Heads of a projection whose rows the file has in another order."""
    if not family.permuted:
        return None
    prefix = f"{header.architecture}.attention.head_count"
    heads: int | None = None
    if ".attn_q." in name:
        heads = header.metadata[prefix]
    elif ".attn_k." in name:
        heads = header.metadata.get(f"{prefix}_kv", header.metadata[prefix])
    return heads
