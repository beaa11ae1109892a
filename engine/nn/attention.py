"""Attention over pages, called by transformers' modelling code in place of its own. Knows no sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

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
    layer, scale = module.layer_idx, query.shape[-1] ** -0.5 if scaling is None else scaling
    if softcap is None and s_aux is None:
        return attend(step, layer, query, key, value, scale, sliding_window), None
    keys, values, mask, causal = _visible(step, layer, query, key, value, sliding_window)
    if causal:
        mask = torch.full((step.length, step.length), float("-inf"), device=query.device).triu_(1)
    out = _written_out(query[0], keys[0], values[0], mask, scale, softcap, s_aux)
    return out.transpose(0, 1)[None], None


def attend(
    step: Any,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Plain attention over pages; shapes as in `paged_attention`."""
    keys, values, mask, causal = _visible(step, layer, query, key, value, window)
    heads, length, width = query.shape[1:]
    if length == 1:  # heads that share keys become the rows of one query: each key is read once
        groups = query.reshape(1, keys.shape[1], -1, width)
        return scaled_dot_product_attention(groups, keys, values, scale=scale).view(1, 1, heads, -1)
    return scaled_dot_product_attention(
        query, keys, values, mask, is_causal=causal, scale=scale, enable_gqa=True
    ).transpose(1, 2)


def _visible(
    step: Any, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, bool]:
    """Store the new keys and values; those to attend to, the mask, and whether it is the causal one."""
    step.write(layer, key[0], value[0])
    mask = step.mask(window, query)
    if step.start:
        key, value = step.read(layer, window)
    return key, value, mask, mask is None and step.length > 1


def _written_out(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attention in single operations, [heads, length, head_dim], with the softmax in float32."""
    heads, length, width = query.shape
    groups = query.reshape(keys.shape[0], -1, length, width)
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
