"""The numbers of a Hugging Face config.json that decide what a forward pass costs.

Knows configuration files only: no weights, no transformers, no hardware.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal

MOST_LAYERS = 10_000  # a config is untrusted: refuse a count that would only fill memory


class UnsupportedModel(ValueError):
    """A config whose costs cannot be computed: an unknown family, or a field missing or impossible."""


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values come out of one vector.

    A token caches that vector, of `kv_rank` elements, and a rotary key of `rope_dim` for all heads. Each
    forward expands all that is cached. `query_rank` is 0 where queries are projected at once.
    """

    kv_rank: int
    query_rank: int
    rope_dim: int


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer as the cost formulae see it. Widths and counts are in elements.

    `head_dim` is that of queries and keys, `value_dim` that of values where it is another. `windows` has one
    entry per layer with attention: the sliding window in tokens, the current token included, or None for
    full attention. `conv_layers` are the indices of those that have a gated convolution over the last
    `conv_kernel` tokens instead (LFM2, arXiv:2511.23404). `moe_layers` are the indices of the layers with
    experts; the others have an MLP of `mlp_width`. `weight_bytes` and `head_bytes` are bytes per weight of
    the layers' linears and of the output head, scales and zero-points included; `kv_bytes` is bytes per
    cached element, scales included.
    """

    layers: int
    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab: int
    tied: bool
    windows: tuple[int | None, ...]
    value_dim: int | None = None
    latent: Latent | None = None
    conv_layers: tuple[int, ...] = ()
    conv_kernel: int = 0
    gated: bool = True  # three MLP matrices (gate, up, down) rather than two
    moe_layers: tuple[int, ...] = ()
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_expert_width: int = 0
    shared_expert_gate: bool = False  # a learned scalar gate on the shared expert: `hidden` more weights
    weight_bytes: float = 2
    head_bytes: float = 2
    kv_bytes: float = 2

    def __post_init__(self) -> None:
        types = len(self.windows) + len(self.conv_layers)
        if types != self.layers:
            raise UnsupportedModel(f"the model has {self.layers} layers but {types} layer types")
        if self.query_heads % self.kv_heads:
            raise UnsupportedModel(
                f"{self.query_heads} query heads cannot share {self.kv_heads} key-value heads evenly"
            )
        if self.latent and self.query_heads != self.kv_heads:
            raise UnsupportedModel(
                f"latents are expanded for each of {self.query_heads} query heads, not for {self.kv_heads}"
            )
        if self.experts_per_token > self.experts:
            raise UnsupportedModel(f"{self.experts_per_token} experts per token of only {self.experts}")

    @cached_property
    def window_counts(self) -> tuple[tuple[int | None, int], ...]:
        """(window, number of layers that have it): the formulae run once per kind of layer."""
        return tuple(Counter(self.windows).items())

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Costs are looked up by shape for every token: its many fields are gone through once."""
        return hash(tuple(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class _Family:
    """How one `model_type` departs from a Llama-like decoder.

    Which layers slide where `layer_types` does not say: "none" (a stray sliding_window is ignored), "all",
    an n for all but each n-th, "late" for those from `max_window_layers` on, "listed" where there is no
    rule and the list has to be there.
    `defaults` are the values that a published config.json may leave out.
    """

    gated: bool = True
    slides: Literal["none", "all", "late", "listed"] | int = "none"
    shared_expert_gate: bool = False
    latent: bool = False
    convolves: bool = False
    defaults: Mapping[str, object] = field(default_factory=dict)


_UNGROUPED = {"num_key_value_heads": None}  # where absent, each query head has its own keys and values
_FAMILIES: dict[str, _Family] = {
    "apertus": _Family(gated=False, defaults=_UNGROUPED),
    "arcee": _Family(gated=False, defaults=_UNGROUPED),
    "cohere": _Family(defaults={**_UNGROUPED, "tie_word_embeddings": True}),
    "cohere2": _Family(
        slides=4, defaults={**_UNGROUPED, "tie_word_embeddings": True, "sliding_window": 4096}
    ),
    "deepseek_v2": _Family(latent=True, defaults={**_UNGROUPED, "q_lora_rank": 1536, "n_shared_experts": 2}),
    "deepseek_v3": _Family(
        latent=True,
        defaults={
            "num_key_value_heads": 128,
            "q_lora_rank": 1536,
            "n_shared_experts": 1,
            "first_k_dense_replace": 3,
        },
    ),
    "ernie4_5": _Family(defaults={"head_dim": 128, "tie_word_embeddings": True}),
    "exaone4": _Family(slides=4, defaults={"sliding_window": 4096}),
    "gemma": _Family(defaults={"head_dim": 256, "tie_word_embeddings": True}),
    "gemma2": _Family(
        slides=2, defaults={"head_dim": 256, "tie_word_embeddings": True, "sliding_window": 4096}
    ),
    "gemma3_text": _Family(
        slides=6,
        defaults={
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
            "tie_word_embeddings": True,
            "sliding_window": 4096,
        },
    ),
    "glm": _Family(defaults={"head_dim": 128}),
    "glm4": _Family(defaults={"head_dim": 128}),
    "gpt2": _Family(gated=False, defaults={**_UNGROUPED, "tie_word_embeddings": True, "n_inner": None}),
    "gpt_neox": _Family(gated=False, defaults=_UNGROUPED),
    "gpt_oss": _Family(slides=2, defaults={"head_dim": 64, "sliding_window": 128}),
    "granite": _Family(defaults=_UNGROUPED),
    "granitemoe": _Family(defaults=_UNGROUPED),
    "lfm2": _Family(
        convolves=True,
        defaults={
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
            "conv_L_cache": 3,
            "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
        },
    ),
    "llama": _Family(defaults=_UNGROUPED),
    "mistral": _Family(slides="all", defaults={"sliding_window": 4096}),
    "mixtral": _Family(slides="all"),
    "nemotron": _Family(gated=False, defaults=_UNGROUPED),
    "olmo": _Family(defaults=_UNGROUPED),
    "olmo2": _Family(defaults=_UNGROUPED),
    "olmo3": _Family(slides=4, defaults={**_UNGROUPED, "sliding_window": 4096}),
    "olmoe": _Family(defaults=_UNGROUPED),
    "phi": _Family(gated=False, defaults=_UNGROUPED),
    "phi3": _Family(slides="all", defaults=_UNGROUPED),
    "qwen2": _Family(slides="late", defaults={"use_sliding_window": False}),
    "qwen2_moe": _Family(slides="listed", shared_expert_gate=True, defaults={"use_sliding_window": False}),
    "qwen3": _Family(slides="late", defaults={"head_dim": 128, "use_sliding_window": False}),
    "qwen3_moe": _Family(slides="all", defaults={"use_sliding_window": False}),
    "seed_oss": _Family(defaults={"head_dim": 128}),
    "smollm3": _Family(slides="listed", defaults={"tie_word_embeddings": True, "use_sliding_window": False}),
    "stablelm": _Family(defaults=_UNGROUPED),
    "starcoder2": _Family(slides="all", gated=False, defaults={"tie_word_embeddings": True}),
}

_ALIASES = (
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("intermediate_size", "n_inner"),
    ("intermediate_size", "block_ff_dim"),
    ("num_experts", "num_local_experts"),
    ("num_experts", "n_routed_experts"),
    ("tie_word_embeddings", "tie_embedding"),
)
"""Settings that some families call otherwise."""


def supported_families() -> tuple[str, ...]:
    """The `model_type`s whose costs are known."""
    return tuple(_FAMILIES)


def shape_from_config(
    config: Mapping[str, object],
    *,
    weight_bytes: float = 2,
    head_bytes: float = 2,
    kv_bytes: float = 2,
) -> ModelShape:
    """Read the shape from a config.json (as parsed, or as transformers' `to_dict()` gives it).

    A multimodal config is read from its `text_config`. The byte counts are not in the config; they
    default to 16-bit weights and cache. Raises `UnsupportedModel` with one line that names the cause.
    """
    values, family = _text_values(config)
    layers = _count(values, "num_hidden_layers")
    if layers > MOST_LAYERS:
        raise UnsupportedModel(
            f"the config's num_hidden_layers is {layers}; at most {MOST_LAYERS} make sense"
        )
    hidden, heads = _count(values, "hidden_size"), _count(values, "num_attention_heads")
    if "num_key_value_heads" not in values:
        raise UnsupportedModel("the config has no num_key_value_heads")
    conv_layers = _conv_layers(values, layers) if family.convolves else ()
    moe_layers = _moe_layers(values, layers)
    moe = bool(moe_layers)
    expert_width = _optional(values, "moe_intermediate_size") if moe else 0
    shared_width = expert_width * _optional(values, "n_shared_experts")
    latent, head_dim = None, _head_dim(values, hidden, heads)
    if family.latent:
        latent = Latent(
            kv_rank=_count(values, "kv_lora_rank"),
            query_rank=_optional(values, "q_lora_rank"),
            rope_dim=_count(values, "qk_rope_head_dim"),
        )
        head_dim = latent.rope_dim + _count(values, "qk_nope_head_dim")
    return ModelShape(
        layers=layers,
        hidden=hidden,
        query_heads=heads,
        kv_heads=_optional(values, "num_key_value_heads") or heads,
        head_dim=head_dim,
        value_dim=_count(values, "v_head_dim") if latent else None,
        latent=latent,
        conv_layers=conv_layers,
        conv_kernel=_count(values, "conv_L_cache") if conv_layers else 0,
        mlp_width=0 if len(moe_layers) == layers else _mlp_width(values, hidden),
        vocab=_count(values, "vocab_size"),
        tied=bool(values.get("tie_word_embeddings")),
        windows=_windows(values, family, layers - len(conv_layers)),
        gated=family.gated,
        moe_layers=moe_layers,
        experts=_count(values, "num_experts") if moe else 0,
        experts_per_token=_count(values, "num_experts_per_tok") if moe else 0,
        expert_width=expert_width or (_mlp_width(values, hidden) if moe else 0),
        shared_expert_width=_optional(values, "shared_expert_intermediate_size") or shared_width
        if moe
        else 0,
        shared_expert_gate=moe and family.shared_expert_gate,
        weight_bytes=weight_bytes,
        head_bytes=head_bytes,
        kv_bytes=kv_bytes,
    )


def _text_values(config: Mapping[str, object]) -> tuple[dict[str, object], _Family]:
    text = config.get("text_config")
    inner: Mapping[str, object] = text if isinstance(text, Mapping) else config
    model_type = inner.get("model_type") or config.get("model_type")
    family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        found = repr(model_type)[:60] if model_type else "no model_type"
        raise UnsupportedModel(f"the costs of this architecture are not known: the config has {found}")
    values = {**family.defaults, **inner}
    if inner is not config and "tie_word_embeddings" in config:
        values["tie_word_embeddings"] = config["tie_word_embeddings"]  # the outer model owns the head
    for name, alias in _ALIASES:
        if name not in inner and alias in values:
            values[name] = values[alias]
    return values, family


def _optional(values: Mapping[str, object], name: str) -> int:
    """A positive integer, or 0 where the config says null, 0 or nothing."""
    value = values.get(name)
    if value is None or value == 0:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UnsupportedModel(f"the config's {name} is {repr(value)[:60]}, not a positive integer")
    return value


def _count(values: Mapping[str, object], name: str) -> int:
    value = _optional(values, name)
    if not value:
        raise UnsupportedModel(f"the config has no {name}")
    return value


def _head_dim(values: Mapping[str, object], hidden: int, heads: int) -> int:
    head_dim = _optional(values, "head_dim")
    if not head_dim and hidden % heads:
        raise UnsupportedModel(
            f"the config has no head_dim, and hidden_size {hidden} is no multiple of {heads}"
        )
    return head_dim or hidden // heads


def _mlp_width(values: Mapping[str, object], hidden: int) -> int:
    if "n_inner" in values and values.get("intermediate_size") is None:
        return 4 * hidden  # GPT-2's meaning of null
    width = _count(values, "intermediate_size")
    if values.get("block_auto_adjust_ff_dim"):  # LFM2: two thirds, as a gated MLP has three matrices
        multiplier, multiple = values.get("block_ffn_dim_multiplier"), _count(values, "block_multiple_of")
        factor = multiplier if isinstance(multiplier, int | float) else 1
        width = -(-int(factor * int(2 * width / 3)) // multiple) * multiple
    return width


def _moe_layers(values: Mapping[str, object], layers: int) -> tuple[int, ...]:
    if not _optional(values, "num_experts"):
        return ()
    step = _optional(values, "decoder_sparse_step") or 1
    dense = values.get("mlp_only_layers")
    skipped = dense if isinstance(dense, list | tuple) else ()
    first = _optional(values, "first_k_dense_replace")
    return tuple(i for i in range(first, layers) if i not in skipped and (i + 1) % step == 0)


def _conv_layers(values: Mapping[str, object], layers: int) -> tuple[int, ...]:
    types, attending = values.get("layer_types"), values.get("full_attn_idxs")
    if isinstance(types, list | tuple):
        return tuple(i for i, kind in enumerate(types) if kind == "conv")
    attends = attending if isinstance(attending, list | tuple) else range(layers)
    return tuple(i for i in range(layers) if i not in attends)


def _windows(values: Mapping[str, object], family: _Family, layers: int) -> tuple[int | None, ...]:
    window = _optional(values, "sliding_window") if values.get("use_sliding_window", True) else 0
    types = values.get("layer_types")
    if isinstance(types, list | tuple):
        types = [kind for kind in types if not (family.convolves and kind == "conv")]
        if not all(kind in ("sliding_attention", "full_attention") for kind in types):
            raise UnsupportedModel(f"the config's layer_types are not plain attention: {repr(types)[:60]}")
        slides = [kind == "sliding_attention" for kind in types]
        if any(slides) and not window:
            raise UnsupportedModel("the config has sliding layers but no sliding_window")
    elif not window or family.slides == "none":
        slides = [False] * layers
    elif family.slides == "listed":
        raise UnsupportedModel("the config has a sliding window but no layer_types")
    elif family.slides == "late":
        slides = [i >= _optional(values, "max_window_layers") for i in range(layers)]
    else:
        pattern = values.get("sliding_window_pattern")
        every = pattern if isinstance(pattern, int) and pattern > 0 else family.slides
        slides = [not isinstance(every, int) or (i + 1) % every != 0 for i in range(layers)]
    return tuple(window if sliding else None for sliding in slides)
