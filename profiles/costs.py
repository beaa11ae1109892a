"""The one cost formula: FLOPs, bytes moved and roofline time of prefill and decode.

Receipt, preview, roofline and fit all ask here. Knows a model's shape and a hardware profile, never a
running model. Convention: one multiply-add is 2 FLOPs; matrix products only (norms, activations, softmax
and rotary embedding are left out, as they are in `torch.utils.flop_counter`); attention is causal unless
`dense` is asked for. Bytes are weights and KV cache; activations are taken to stay on the chip.
"""

from dataclasses import dataclass
from functools import lru_cache

from profiles.catalogue import Profile
from profiles.shape import ModelShape, UnsupportedModel, shape_from_config

__all__ = [
    "Bytes",
    "Flops",
    "ModelShape",
    "UnsupportedModel",
    "active_linear_weights",
    "decode_bytes",
    "decode_flops",
    "kv_bytes_per_token",
    "linear_weights",
    "matrix_parameters",
    "prefill_bytes",
    "prefill_flops",
    "roofline_seconds",
    "shape_from_config",
    "span_flops",
    "state_bytes",
    "weight_read_bytes",
]


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward pass, by part. `Flops()` is the zero to sum from."""

    linear: int = 0
    attention: int = 0
    lm_head: int = 0

    @property
    def total(self) -> int:
        return self.linear + self.attention + self.lm_head

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            self.linear + other.linear, self.attention + other.attention, self.lm_head + other.lm_head
        )


@dataclass(frozen=True)
class Bytes:
    """Bytes moved between memory and chip, by kind. `Bytes()` is the zero to sum from."""

    weights: int = 0
    kv_read: int = 0
    kv_write: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv_read + self.kv_write

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(
            self.weights + other.weights, self.kv_read + other.kv_read, self.kv_write + other.kv_write
        )


def prefill_flops(
    shape: ModelShape, new: int, cached: int = 0, *, logits_rows: int = 1, dense: bool = False
) -> Flops:
    """FLOPs of forwarding `new` tokens on top of `cached` ones, with `logits_rows` rows through the head.

    What a cache of C tokens saved is `prefill_flops(shape, C, logits_rows=0)`, but that of latent attention,
    which expands what it has cached again at each forward. `dense` counts each query against each key
    present, masked or not, and convolutions with the outputs that are not used: the way FlopCounterMode sees
    an eager forward pass.
    """
    pairs = sum(
        count * (_dense_pairs if dense else _causal_pairs)(new, cached, window)
        for window, count in shape.window_counts
    )
    linear = 2 * new * active_linear_weights(shape) + 2 * cached * _expanding_weights(shape)
    if dense:
        linear += 2 * (_conv_outputs(shape, new, cached) - new) * _conv_weights(shape)
    return Flops(
        linear=linear,
        attention=2 * shape.query_heads * (shape.head_dim + _value_dim(shape)) * pairs,
        lm_head=2 * logits_rows * shape.vocab * shape.hidden,
    )


def decode_flops(shape: ModelShape, *contexts: int) -> Flops:
    """FLOPs of one decode step: one new token per row. `contexts` are the rows' lengths, it included."""
    return sum((prefill_flops(shape, 1, context - 1) for context in contexts), Flops())


def span_flops(shape: ModelShape, new: int, cached: int = 0) -> int:
    """FLOPs of `new` decode steps one after another, the first on top of `cached` tokens.

    That of one forward over them with logits of each, but that latent attention expands its cache each time.
    """
    again = (new - 1) * cached + new * (new - 1) // 2 if new else 0
    together = prefill_flops(shape, new, cached, logits_rows=new).total if new else 0
    return together + 2 * again * _expanding_weights(shape)


def prefill_bytes(shape: ModelShape, new: int, cached: int = 0, *, logits_rows: int = 1) -> Bytes:
    """Bytes of forwarding `new` tokens on `cached` ones: weights once, the cache read, new keys written."""
    return Bytes(
        weights=weight_read_bytes(shape, new, logits_rows=logits_rows),
        kv_read=_kv_read_bytes(shape, cached),
        kv_write=round(new * kv_bytes_per_token(shape)) + state_bytes(shape),
    )


def decode_bytes(shape: ModelShape, *contexts: int) -> Bytes:
    """Bytes of one decode step: weights once for all rows, each row's own cache. Lengths as in FLOPs."""
    return Bytes(
        weights=weight_read_bytes(shape, len(contexts)),
        kv_read=sum(_kv_read_bytes(shape, context - 1) for context in contexts),
        kv_write=round(len(contexts) * kv_bytes_per_token(shape)) + len(contexts) * state_bytes(shape),
    )


def kv_bytes_per_token(shape: ModelShape) -> float:
    """Bytes that one token adds to the cache over all layers (whole unless the cache is quantized)."""
    return len(shape.windows) * _cached_width(shape) * shape.kv_bytes


def state_bytes(shape: ModelShape) -> int:
    """Bytes that a sequence keeps besides, however long it is: what convolutions last saw."""
    return round(len(shape.conv_layers) * shape.conv_kernel * shape.hidden * shape.kv_bytes)


def weight_read_bytes(shape: ModelShape, tokens: int = 1, *, logits_rows: int = 1) -> int:
    """Bytes of weights read by a step over `tokens` tokens, scales included.

    The output head counts once, tied or not; of the embedding only a few rows are read, which are left
    out. Of n experts with k per token, n(1 - (1 - k/n)^tokens) are expected to be read per layer.
    """
    linear: float = _linear_weights(shape, 0)
    if shape.moe_layers:
        touched = shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** tokens)
        linear = _linear_weights(shape, touched)
    head = shape.vocab * shape.hidden * shape.head_bytes if logits_rows else 0
    return round(linear * shape.weight_bytes + head)


def active_linear_weights(shape: ModelShape) -> int:
    """Weights of the layers' linears that one token is multiplied with (the N of `2N` FLOPs per token)."""
    return round(_linear_weights(shape, shape.experts_per_token))


def linear_weights(shape: ModelShape) -> int:
    """Weights of the layers' linears that are resident, all experts included.

    A loader that knows its exact bytes sets `ModelShape.weight_bytes` to bytes / `linear_weights`.
    """
    return round(_linear_weights(shape, shape.experts))


def matrix_parameters(shape: ModelShape) -> int:
    """Parameters held in weight matrices: linears, embedding, untied head.

    Norms, biases and learned positions, which no config states for every family, are not in it.
    """
    return linear_weights(shape) + shape.vocab * shape.hidden * (1 if shape.tied else 2)


def roofline_seconds(flops: int, bytes_moved: int, profile: Profile, dtype: str) -> float | None:
    """The least time the hardware allows: max(FLOPs / peak, bytes / bandwidth), in seconds.

    None where the profile has no figure for the bandwidth or for this dtype's peak. (Williams et al.,
    "Roofline: an insightful visual performance model", 2009.)
    """
    peak, bandwidth = profile.peaks.get(dtype), profile.bandwidth
    if peak is None or bandwidth is None:
        return None
    return max(flops / peak.value, bytes_moved / bandwidth.value)


@lru_cache(maxsize=64)  # the meter asks for every token
def _linear_weights(shape: ModelShape, experts: float) -> float:
    """Weights of all layers' linears with `experts` routed experts counted per MoE layer."""
    matrices = 3 if shape.gated else 2
    moe = matrices * shape.hidden * (experts * shape.expert_width + shape.shared_expert_width)
    router = shape.hidden * (shape.experts + shape.shared_expert_gate)
    dense_layers = shape.layers - len(shape.moe_layers)
    return (
        len(shape.windows) * _attention_weights(shape)
        + len(shape.conv_layers) * 4 * shape.hidden**2
        + _conv_weights(shape)
        + dense_layers * matrices * shape.hidden * shape.mlp_width
        + len(shape.moe_layers) * (moe + router)
    )


def _attention_weights(shape: ModelShape) -> int:
    """Weights of the projections of one layer with attention."""
    queries, values = shape.query_heads * shape.head_dim, shape.query_heads * _value_dim(shape)
    latent = shape.latent
    if latent is None:
        keys = shape.kv_heads * (shape.head_dim + _value_dim(shape))
        return shape.hidden * (queries + keys + values)
    rank = latent.query_rank
    asking = rank * (shape.hidden + queries) if rank else shape.hidden * queries
    compressing = shape.hidden * (latent.kv_rank + latent.rope_dim)
    return asking + compressing + _expanding_weights(shape) // len(shape.windows) + values * shape.hidden


def _expanding_weights(shape: ModelShape) -> int:
    """Weights of all layers by which each cached token is multiplied anew: latents to keys and values."""
    latent = shape.latent
    if latent is None:
        return 0
    expanded = shape.head_dim - latent.rope_dim + _value_dim(shape)
    return len(shape.windows) * latent.kv_rank * shape.query_heads * expanded


def _value_dim(shape: ModelShape) -> int:
    return shape.value_dim or shape.head_dim


def _cached_width(shape: ModelShape) -> int:
    """Elements that a token caches in one layer with attention."""
    if shape.latent is not None:
        return shape.latent.kv_rank + shape.latent.rope_dim
    return shape.kv_heads * (shape.head_dim + _value_dim(shape))


def _conv_weights(shape: ModelShape) -> int:
    """Weights of all convolutions, one per channel and tap: each is used once per token."""
    return len(shape.conv_layers) * shape.hidden * shape.conv_kernel


def _conv_outputs(shape: ModelShape, new: int, cached: int) -> int:
    """Outputs that transformers' convolutions compute for `new` tokens, those of padding included."""
    if not cached:
        return max(new, shape.conv_kernel) + shape.conv_kernel - 1
    return 2 if new == 1 else new + 2 * shape.conv_kernel - 1


def _causal_pairs(new: int, cached: int, window: int | None) -> int:
    """Query-key pairs of causal attention: the sum of min(cached + i, window) for i = 1 … new."""
    growing = new if window is None else min(max(window - cached, 0), new)
    return growing * cached + growing * (growing + 1) // 2 + (new - growing) * (window or 0)


def _dense_pairs(new: int, cached: int, window: int | None) -> int:
    """Pairs without regard to the mask; a sliding layer's cache holds the last window - 1 tokens."""
    return new * (new + (cached if window is None else min(cached, window - 1)))


def _kv_read_bytes(shape: ModelShape, cached: int) -> int:
    """Bytes of keys and values read for a pass over `cached` tokens; the new tokens' are on the chip."""
    tokens = sum(
        count * (cached if window is None else min(cached, window - 1))
        for window, count in shape.window_counts
    )
    return round(_cached_width(shape) * shape.kv_bytes * tokens) + (state_bytes(shape) if cached else 0)
