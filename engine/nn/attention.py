"""Attention over pages, called by transformers' modelling code in place of its own. Knows no sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "mull_paged"
"""What the function is registered under. transformers builds no mask for a name it does not know."""


@dataclass(frozen=True)
class Scores:
    """How a layer weighs: scores times `scale`, within a window of tokens (the token itself included).

    `softcap` bounds the scores by tanh (Gemma 2, arXiv:2408.00118); `sinks`, [heads], are scores that take
    their share of the softmax and give nothing (gpt-oss, arXiv:2508.10925).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        return self.softcap is None and self.sinks is None


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
    """transformers' signature around `attend`; returns [1, length, heads, head_dim]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = Scores(scale, sliding_window, softcap, s_aux)
    return attend(step, module.layer_idx, query, key, value, scores), None


def attend(
    step: Any, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """Write the new keys and values into `step`'s slots and attend to all that each token may see.

    query is [1, heads, length, head_dim], key and value [1, kv_heads, length, head_dim], where `length`
    counts the tokens of all segments; returns [1, length, heads, head_dim].
    """
    step.write(layer, key[0], value[0])
    if len(step.segments) == 1 and not step.exact:
        return _segment(step.segments[0], layer, query, key, value, scores)
    if scores.plain and step.pool.storage.attention is not None:
        return _by_kernel(step, layer, query, key, value, scores)
    length = query.shape[2]
    out = query.new_empty(1, length, query.shape[1], value.shape[-1])
    alone: Sequence[int] = range(len(step.segments))
    if scores.window is None and scores.plain and query.device.type == "cpu":
        for group in step.shared()[0]:
            _shared_prefix(group, step.pool, layer, query, out, scores.scale)
        groups, alone = step.alike(query)
        for group in groups:
            _at_once(group, step.pool, layer, query, out, scores.scale)
    begins = step.begins()
    for index in alone:
        segment, begin = step.segments[index], begins[index]
        new = slice(begin, begins[index + 1])
        if step.exact and segment.length > 1:
            _each_token(segment, layer, query[:, :, new], out[:, new], scores)
        else:
            out[:, new] = _segment(segment, layer, query[:, :, new], key[:, :, new], value[:, :, new], scores)
    return out


def _by_kernel(
    step: Any, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """What `attend` returns: most tokens in one call, and apart from them what is quicker otherwise."""
    kernel, work = step.pool.storage.attention, step.by_kernel(scores.window is not None)
    if work.rows is None:
        return kernel(work.tokens, layer, query[0], scores.scale, scores.window)[None]
    out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    if len(work.rows):
        some = query[0].index_select(1, work.rows)
        out[0].index_copy_(0, work.rows, kernel(work.tokens, layer, some, scores.scale, scores.window))
    for group in work.groups:
        _shared_prefix(group, step.pool, layer, query, out, scores.scale)
    begins = step.begins()
    for index in work.rest:
        new = slice(begins[index], begins[index + 1])
        segment = step.segments[index]
        out[:, new] = _segment(segment, layer, query[:, :, new], key[:, :, new], value[:, :, new], scores)
    return out


def _segment(
    segment: Any, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """Attention of one segment, whose keys and values are written; [1, length, heads, head_dim]."""
    mask = segment.mask(scores.window, query)
    if segment.start or not segment.pool.storage.lossless:  # its own keys, too, as others will read them
        key, value = segment.read(layer, segment.first_key(scores.window))
    causal = mask is None and segment.length > 1
    if scores.plain and segment.length > 1:
        return scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=scores.scale, enable_gqa=True
        ).transpose(1, 2)
    if segment.length == 1:
        return _one_token(query, key, value, scores)
    if causal:
        mask = torch.full((segment.length, segment.length), float("-inf"), device=query.device).triu_(1)
    return _written_out(query[0], key[0], value[0], mask, scores).transpose(0, 1)[None]


def _one_token(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scores: Scores) -> torch.Tensor:
    """One token's attention to all keys given, [1, 1, heads, head_dim]."""
    heads, _, width = query.shape[1:]
    if scores.plain:  # heads that share keys become the rows of one query: each key is read once
        groups = query.reshape(1, keys.shape[1], -1, width)
        return scaled_dot_product_attention(groups, keys, values, scale=scores.scale).view(1, 1, heads, -1)
    return _written_out(query[0], keys[0], values[0], None, scores).transpose(0, 1)[None]


def _each_token(segment: Any, layer: int, query: torch.Tensor, out: torch.Tensor, scores: Scores) -> None:
    """Each token of a segment as if it were forwarded alone; into `out`, [1, length, heads, head_dim]."""
    first = segment.first_key(scores.window)
    keys, values = segment.read(layer, first)
    for at in range(segment.length):
        position = segment.start + at
        seen = slice(segment.first_key(scores.window, position) - first, position + 1 - first)
        out[:, at : at + 1] = _one_token(
            query[:, :, at : at + 1], keys[:, :, seen], values[:, :, seen], scores
        )


def _shared_prefix(
    group: Any, pool: Any, layer: int, query: torch.Tensor, out: torch.Tensor, scale: float
) -> None:
    """Rows of one token over a prefix that they share, read once, and over a tail of each one's own.

    The two parts are joined by the logarithms of their sums of exponentials, as in Hydragen
    (arXiv:2402.05099).
    """
    keys, values = pool.storage.read_run(layer, group.base, group.keys)
    kv_heads, rows, width = keys.shape[1], len(group.rows), query.shape[-1]
    # [rows, kv_heads, heads per key, width]
    own = query[0, :, group.rows].transpose(0, 1).reshape(rows, kv_heads, -1, width)
    together = own.transpose(0, 1).reshape(1, kv_heads, -1, width)
    prefix, prefix_sum = _with_sums(together, keys, values, scale)
    prefix = prefix.view(kv_heads, rows, -1, width).transpose(0, 1)
    prefix_sum = prefix_sum.view(kv_heads, rows, -1).transpose(0, 1)
    tails = []
    for row, segment in enumerate(group.tails):
        own_keys, own_values = segment.read(layer, 0)
        tails.append(_with_sums(own[row : row + 1], own_keys, own_values, scale))
    tail, tail_sum = torch.cat([part for part, _ in tails]), torch.cat([part for _, part in tails])
    share = torch.sigmoid(prefix_sum - tail_sum).unsqueeze(-1).to(tail.dtype)
    out[0, group.rows] = torch.lerp(tail, prefix, share).reshape(rows, -1, width)


def _at_once(group: Any, pool: Any, layer: int, query: torch.Tensor, out: torch.Tensor, scale: float) -> None:
    """Rows of one token that hold as many pages each: one product for all of them."""
    rows, longest, width = len(group.rows), group.mask.shape[-1], query.shape[-1]

    def of_rows(slots: torch.Tensor) -> torch.Tensor:
        """[rows, kv_heads, keys, width] of what was read, [1, kv_heads, slots, width]."""
        return slots[0].unflatten(1, (rows, -1)).transpose(0, 1)[:, :, :longest]

    keys, values = map(of_rows, pool.storage.read_pages(layer, group.pages, slice(None)))
    unwritten = group.mask[:, 0, 0, group.least :, None] != 0
    for part in keys, values:  # copies: a mask alone would not keep out what is no number
        part[:, :, group.least :].masked_fill_(unwritten[:, None], 0)
    # heads that share keys become the rows of one query: each key is read once
    own = query[0].transpose(0, 1).index_select(0, group.rows).view(rows, keys.shape[1], -1, width)
    found = scaled_dot_product_attention(own, keys, values, group.mask, scale=scale)
    out[0].index_copy_(0, group.rows, found.reshape(rows, -1, found.shape[-1]))


def _with_sums(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention, [1, heads, rows, width], and the logarithm of each row's sum, [1, heads, rows]."""
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, keys, values, scale=scale)
    return out, sums


def _written_out(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    how: Scores,
) -> torch.Tensor:
    """Attention in single operations, [heads, length, head_dim], with the softmax in float32."""
    heads, length, width = query.shape
    groups = query.reshape(keys.shape[0], -1, length, width)
    scores = (groups @ keys[:, None].transpose(2, 3)).float() * how.scale
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    if mask is not None:
        scores = scores + mask
    if how.sinks is not None:
        column = how.sinks.float().view(*groups.shape[:2], 1, 1).expand(-1, -1, length, 1)
        shares = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    else:
        shares = scores.softmax(-1)
    return (shares.to(values.dtype) @ values[:, None]).view(heads, length, -1)
