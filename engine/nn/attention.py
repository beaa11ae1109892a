"""Attention over pages, called by transformers' modelling code in place of its own. Knows no sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

NAME = "mull_paged"
"""What the function is registered under. transformers builds no mask for a name it does not know."""


def register() -> None:
    """Make the function known to transformers; a model takes it by `attn_implementation=NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, paged_attention)


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    *,
    step: Any,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Write the new keys and values into `step`'s slots and attend to all that the layer may see.

    query is [1, heads, length, head_dim], key and value [1, kv_heads, length, head_dim]; returns
    [1, length, heads, head_dim]. `softcap` bounds the scores by tanh (Gemma 2, arXiv:2408.00118);
    `s_aux` holds one sink per head, a score that takes its share of the softmax and gives nothing
    (gpt-oss, arXiv:2508.10925).
    """
    step.write(module.layer_idx, key[0], value[0])
    keys, values = (key[0], value[0]) if step.start == 0 else step.read(module.layer_idx, sliding_window)
    mask = step.mask(sliding_window, query)
    causal = mask is None and step.length > 1
    if softcap is None and s_aux is None:
        out = functional.scaled_dot_product_attention(
            query, keys[None], values[None], mask, is_causal=causal, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None
    if causal:
        mask = torch.full((step.length, step.length), float("-inf"), device=query.device).triu_(1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _explicit(query[0], keys, values, mask, scale, softcap, s_aux).transpose(0, 1)[None], None


def _explicit(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention written out, [heads, length, head_dim], the softmax in float32."""
    heads, length, width = query.shape
    groups = query.view(keys.shape[0], -1, length, width)
    scores = (groups @ keys[:, None].transpose(2, 3)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        column = sinks.float().view(*groups.shape[:2], 1, 1).expand(-1, -1, length, 1)
        shares = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    else:
        shares = scores.softmax(-1)
    return (shares.to(values.dtype) @ values[:, None]).view(heads, length, -1)
