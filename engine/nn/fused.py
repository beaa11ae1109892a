"""A standard pre-norm decoder (Llama, Mistral, Qwen) with few operations per layer, over pages.

transformers' modules keep the weights; this runs them with the projections joined and without the modules'
overhead, which is most of a small model's time. Used only where it agrees with the model's own forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from engine.nn.attention import Scores, attend
from engine.nn.joined import joined, let_go
from engine.nn.linear import Linear
from engine.nn.quant_modules import QuantEmbedding

_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class Norm:
    """Root mean square norm over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        """`weight` is [..., width]; leading dimensions are those of the input, as for a norm per head."""
        width = weight.shape[-1]
        self._weight, self._eps, self._width = weight, eps, (width,)
        # x / rms(x) = x * sqrt(width) / hypot(|x|, sqrt(width * eps)): fewer passes where each costs a call.
        self._by_length = weight.dtype == torch.float32 and weight.device.type == "cpu"
        self._scaled = weight * width**0.5
        self._floor = torch.full((1,), (width * eps) ** 0.5)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._by_length:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x / torch.hypot(length, self._floor) * self._scaled
        return functional.rms_norm(x, self._width, None, self._eps) * self._weight


@dataclass(frozen=True)
class Layer:
    """One decoder layer's weights as they are used."""

    norm: Norm
    qkv: Linear
    head_norm: Norm | None
    o: Linear
    scores: Scores
    mlp_norm: Norm
    gate_up: Linear
    down: Linear

    def packed(self) -> Layer:
        """The same layer with its matrices packed."""
        return replace(
            self,
            qkv=self.qkv.packed(),
            o=self.o.packed(),
            gate_up=self.gate_up.packed(),
            down=self.down.packed(),
        )


class FusedDecoder:
    """Computes what the model's own forward computes, for the segments of a step."""

    def __init__(self, model: Any, windows: Sequence[int | None], context: int) -> None:
        """`windows` are the layers' sliding windows. The model's weights become views of joined ones.

        Raises ValueError where the model is not built like this.
        """
        base = model.base_model
        first = base.layers[0].self_attn
        if not all(_is_standard(layer) for layer in base.layers) or model.lm_head.bias is not None:
            raise ValueError("the layers are not standard")
        self._width: int = first.head_dim
        self._queries = first.q_proj.out_features // self._width
        self._keys = first.k_proj.out_features // self._width
        self._scale: float = first.scaling
        self._model = model
        self._embedding = base.embed_tokens
        self._device = base.norm.weight.device
        self._head: Linear = joined([model.lm_head])
        self._norm = _norm(base.norm)
        self._layers = [
            self._layer(layer, window) for layer, window in zip(base.layers, windows, strict=True)
        ]
        positions = torch.arange(context, device=self._device)[None]
        cos, sin = base.rotary_emb(base.norm.weight[None, None], positions)
        if cos.shape[-1] != self._width:
            raise ValueError("only a part of each head is rotated")
        # rotate_half(x) * sin is x rolled by half a head, times sin with its first half negated.
        half = self._width // 2
        self._cos = cos[0, :, None]
        self._sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)[:, None]

    def _layer(self, layer: Any, window: int | None) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):
            weights = [attention.q_norm.weight.expand(self._queries, -1)]
            weights.append(attention.k_norm.weight.expand(self._keys, -1))
            head_norm = Norm(torch.cat(weights), attention.q_norm.variance_epsilon)
        return Layer(
            norm=_norm(layer.input_layernorm),
            qkv=joined([attention.q_proj, attention.k_proj, attention.v_proj]),
            head_norm=head_norm,
            o=joined([attention.o_proj]),
            scores=Scores(self._scale, window),
            mlp_norm=_norm(layer.post_attention_layernorm),
            gate_up=joined([mlp.gate_proj, mlp.up_proj]),
            down=joined([mlp.down_proj]),
        )

    def pack(self) -> None:
        """Pack all matrices, layer by layer, and let go of the model's own; its forward is then gone."""
        for index, layer in enumerate(self._model.base_model.layers):
            self._layers[index] = self._layers[index].packed()
            for module in layer.modules():
                let_go(module)
        self._head = self._head.packed()
        if getattr(self._model.lm_head, "weight", None) is not self._embedding.weight:
            let_go(self._model.lm_head)

    def __call__(
        self, ids: Sequence[int], step: Any, logits_of: Sequence[int], layers: int | None = None
    ) -> torch.Tensor | None:
        """Forward ids at the step's positions; the logits of some of them, [wanted, vocabulary].

        With `layers` only the first ones are run, and the head after them.
        """
        if len(ids) == 1 and not isinstance(self._embedding, QuantEmbedding):
            x = self._embedding.weight.narrow(0, ids[0], 1)
        else:
            x = self._embedding(torch.tensor(ids, device=self._device))
        if len(step.segments) == 1:
            start = step.segments[0].start
            cos, sin = self._cos.narrow(0, start, step.length), self._sin.narrow(0, start, step.length)
        else:
            positions = step.positions(x.device)
            cos, sin = self._cos[positions], self._sin[positions]
        for index, layer in enumerate(self._layers[:layers]):
            x = self._block(x, index, layer, cos, sin, step)
        if not logits_of:
            return None
        return self._head(self._norm(x if len(logits_of) == len(x) else x[logits_of]))

    def _block(
        self, x: torch.Tensor, index: int, layer: Layer, cos: torch.Tensor, sin: torch.Tensor, step: Any
    ) -> torch.Tensor:
        """One layer on [length, hidden]."""
        rows, rotated = len(x), self._queries + self._keys
        qkv = layer.qkv(layer.norm(x)).view(1, rows, -1, self._width)
        heads = qkv.narrow(2, 0, rotated)
        if layer.head_norm is not None:
            heads = layer.head_norm(heads)
        heads = torch.addcmul(heads * cos, heads.roll(self._width // 2, -1), sin).transpose(1, 2)
        query, key = heads.narrow(1, 0, self._queries), heads.narrow(1, self._queries, self._keys)
        value = qkv.narrow(2, rotated, self._keys).transpose(1, 2)
        out = attend(step, index, query, key, value, layer.scores)
        x = layer.o.add(out.reshape(rows, -1), x)
        gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
        return layer.down.add(functional.silu(gate).mul_(up), x)


class FirstLayers:
    """A decoder's first layers with its head: an early exit."""

    def __init__(self, decoder: FusedDecoder, layers: int) -> None:
        self._decoder = decoder
        self._layers = layers

    def pack(self) -> None:
        """The weights are the decoder's, packed or not."""

    def __call__(self, ids: Sequence[int], step: Any, logits_of: Sequence[int]) -> torch.Tensor | None:
        """As the decoder itself."""
        return self._decoder(ids, step, logits_of, self._layers)


def _is_standard(layer: Any) -> bool:
    """Whether a layer has exactly the parts that are computed here."""
    attention = {name for name, _ in layer.self_attn.named_children()}
    return (
        {name for name, _ in layer.named_children()} == _LAYER
        and attention in (_ATTENTION, _ATTENTION | {"q_norm", "k_norm"})
        and {name for name, _ in layer.mlp.named_children()} == _MLP
        and layer.self_attn.o_proj.bias is None
        and layer.mlp.down_proj.bias is None
        and layer.mlp.gate_proj.bias is None
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)
