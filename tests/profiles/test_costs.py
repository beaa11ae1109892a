"""The cost formula against published arithmetic and against what transformers' models really multiply."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from profiles import catalogue, costs
from profiles.costs import Bytes, Flops, ModelShape, UnsupportedModel, shape_from_config
from profiles.shape import supported_families

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
QWEN3_06B = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "sliding_window": 4096,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
NAMES = ("llama-3.1-8b", "qwen3-0.6b")
CONFIGS = dict(zip(NAMES, (LLAMA_8B, QWEN3_06B), strict=True))

# What each quantity is for Llama-3.1-8B and for Qwen3-0.6B, both in bf16.
FIGURES = {
    "weights used per token": (6_979_321_856, 440_401_920),
    "KV bytes per token": (131_072, 114_688),
    "weight bytes read": (15_009_316_864, 1_191_968_768),
    "decode FLOPs at 1": (15_009_841_152, 1_192_198_144),
    "decode FLOPs at 1024": (15_546_187_776, 1_426_849_792),
    "decode FLOPs at 4096": (17_156_800_512, 2_131_492_864),
    "prefill 512, dense": (7_285_315_207_168, 511_412_273_152),
    "prefill 512, causal": (7_216_729_948_160, 481_406_222_336),
    "prefill 512 on 512, dense": (7_422_754_160_640, 571_541_815_296),
    "prefill 1000, causal": (14_222_100_529_152, 995_917_692_928),
    "500 tokens after it, FLOPs": (7_816_673_755_136, 737_865_695_232),
    "500 tokens after it, bytes": (7_571_405_275_136, 666_329_055_232),
    "saved by 800 cached": (11_334_896_844_800, 778_135_142_400),
}


def quantity(name: str, shape: ModelShape) -> float:
    steps = range(1001, 1500)  # the first of 500 tokens comes from the prefill
    return {
        "weights used per token": lambda: costs.active_linear_weights(shape),
        "KV bytes per token": lambda: costs.kv_bytes_per_token(shape),
        "weight bytes read": lambda: costs.weight_read_bytes(shape),
        "decode FLOPs at 1": lambda: costs.decode_flops(shape, 1).total,
        "decode FLOPs at 1024": lambda: costs.decode_flops(shape, 1024).total,
        "decode FLOPs at 4096": lambda: costs.decode_flops(shape, 4096).total,
        "prefill 512, dense": lambda: costs.prefill_flops(shape, 512, dense=True).total,
        "prefill 512, causal": lambda: costs.prefill_flops(shape, 512).total,
        "prefill 512 on 512, dense": lambda: costs.prefill_flops(shape, 512, 512, dense=True).total,
        "prefill 1000, causal": lambda: costs.prefill_flops(shape, 1000).total,
        "500 tokens after it, FLOPs": lambda: sum(costs.decode_flops(shape, n).total for n in steps),
        "500 tokens after it, bytes": lambda: sum(costs.decode_bytes(shape, n).total for n in steps),
        "saved by 800 cached": lambda: costs.prefill_flops(shape, 800, logits_rows=0).total,
    }[name]()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("model", range(2), ids=NAMES)
def test_the_published_figures_come_out_exactly(model: int, name: str) -> None:
    assert quantity(name, shape_from_config(CONFIGS[NAMES[model]])) == FIGURES[name][model]


# One small checkpoint's worth of numbers; each family takes the fields it knows. The window is shorter than
# the prompt, layers enough for every pattern of sliding and full attention, every second MoE layer dense.
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "vocab_size": 64,
    "sliding_window": 4,
    "use_sliding_window": True,
    "max_window_layers": 3,
    "max_position_embeddings": 128,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "first_k_dense_replace": 2,
    "n_group": 2,
    "topk_group": 1,
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 16,
    "v_head_dim": 10,
    "full_attn_idxs": [2, 5],
    "block_multiple_of": 24,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "decoder_sparse_step": 2,
    "mlp_only_layers": [3],
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


def tiny_config(family: str) -> PreTrainedConfig:
    config_class = CONFIG_MAPPING[family]
    known = {**config_class().to_dict(), **getattr(config_class, "attribute_map", {})}
    latent = {"num_key_value_heads": TINY["num_attention_heads"]} if "kv_lora_rank" in known else {}
    return config_class(**{**{key: value for key, value in TINY.items() if key in known}, **latent})


def tiny_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = tiny_config(family)
    return AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def counted(model: PreTrainedModel, ids: torch.Tensor, **inputs: object) -> tuple[int, Any]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = model(ids, use_cache=True, **inputs)
    return counter.get_total_flops(), output


@pytest.mark.parametrize("family", supported_families())
def test_every_supported_family_multiplies_exactly_what_the_formula_says(family: str) -> None:
    model = tiny_model(family)
    shape = shape_from_config(model.config.to_dict())
    ids = torch.arange(10)[None]

    flops, output = counted(model, ids, output_attentions=True)
    assert flops == costs.prefill_flops(shape, 10, logits_rows=10, dense=True).total

    attended = sum(int((layer > 0).sum()) for layer in output.attentions)
    widths = shape.head_dim + (shape.value_dim or shape.head_dim)
    assert costs.prefill_flops(shape, 10).attention == 2 * widths * attended

    flops, output = counted(model, ids[:, :3], past_key_values=output.past_key_values, logits_to_keep=1)
    assert flops == costs.prefill_flops(shape, 3, 10, dense=True).total
    flops, _ = counted(model, ids[:, :1], past_key_values=output.past_key_values, logits_to_keep=1)
    assert flops == costs.prefill_flops(shape, 1, 13, dense=True).total
    flops, _ = counted(model, ids[:, :2], logits_to_keep=1)
    assert flops == costs.prefill_flops(shape, 2, dense=True).total

    learned = {"wpe.weight", "gate_up_proj_bias", "down_proj_bias"}  # positions and per-expert biases
    matrices = (
        p.numel() for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith(tuple(learned))
    )
    assert costs.matrix_parameters(shape) == sum(matrices)


@pytest.mark.parametrize(("name", "parameters"), zip(NAMES, (8_030_261_248, 596_049_920), strict=True))
def test_a_full_size_model_agrees_in_flops_and_parameters(name: str, parameters: int) -> None:
    config = CONFIG_MAPPING[str(CONFIGS[name]["model_type"])](**CONFIGS[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    shape = shape_from_config(CONFIGS[name])
    flops, _ = counted(model, torch.zeros(1, 512, dtype=torch.long, device="meta"), logits_to_keep=1)
    assert flops == costs.prefill_flops(shape, 512, dense=True).total
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert costs.matrix_parameters(shape) + norms == parameters == model.num_parameters()


@pytest.mark.parametrize("family", supported_families())
def test_what_a_config_leaves_out_is_read_as_transformers_reads_it(family: str) -> None:
    optional = {
        "head_dim",
        "num_key_value_heads",
        "tie_word_embeddings",
        "layer_types",
        "sliding_window",
        "use_sliding_window",
        "sliding_window_pattern",
        "decoder_sparse_step",
        "mlp_only_layers",
        "max_window_layers",
    }
    full = CONFIG_MAPPING[family]().to_dict()
    if "num_experts_per_tok" in full and full["num_experts_per_tok"] is None:
        full["num_experts_per_tok"] = 2  # a default that says nothing
    for left_out in optional & full.keys():
        # the derived list goes too, or it would answer for the field it was derived from
        short = {key: value for key, value in full.items() if key not in {left_out, "layer_types"}}
        try:
            shape = shape_from_config(short)
        except UnsupportedModel as error:
            assert left_out in str(error)
        else:
            assert shape == shape_from_config(full), left_out


@pytest.mark.parametrize("family", supported_families())
def test_the_sliding_layers_that_a_config_does_not_list_are_those_of_transformers(family: str) -> None:
    full = tiny_config(family).to_dict()
    try:
        shape = shape_from_config({"sliding_window": 4, **full, "layer_types": None})
    except UnsupportedModel as error:
        assert "layer_types" in str(error)
        assert family in {"qwen2_moe", "smollm3"}
    else:
        assert shape == shape_from_config(full)


def test_a_gemma_3_config_as_published_is_complete_without_its_defaults() -> None:
    shape = shape_from_config(
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
            },
        }
    )
    assert (shape.query_heads, shape.kv_heads, shape.head_dim, shape.tied) == (8, 4, 256, True)
    assert [i for i, window in enumerate(shape.windows) if window is None] == [5, 11, 17, 23, 29]


WINDOWED = shape_from_config({**LLAMA_8B, "model_type": "gemma2", "head_dim": 256, "sliding_window": 64})
MOE = shape_from_config(tiny_config("qwen2_moe").to_dict())
CONVOLUTIONS = shape_from_config(tiny_config("lfm2").to_dict())
SHAPES = {
    "full": shape_from_config(QWEN3_06B),
    "windowed": WINDOWED,
    "experts": MOE,
    "convolutions": CONVOLUTIONS,
}
tokens = st.integers(1, 200)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@given(chunks=st.lists(tokens, min_size=1, max_size=5))
def test_a_prompt_costs_the_same_in_one_pass_or_in_chunks(shape: ModelShape, chunks: list[int]) -> None:
    parts, cached = Flops(), 0
    for chunk in chunks:
        parts += costs.prefill_flops(shape, chunk, cached, logits_rows=0)
        cached += chunk
    assert parts == costs.prefill_flops(shape, cached, logits_rows=0)
    tail = costs.prefill_flops(shape, chunks[-1], cached - chunks[-1])
    saved = costs.prefill_flops(shape, cached - chunks[-1], logits_rows=0)
    assert saved + tail == costs.prefill_flops(shape, cached)


LATENT = shape_from_config(tiny_config("deepseek_v3").to_dict())


@pytest.mark.parametrize("shape", [*SHAPES.values(), LATENT], ids=[*SHAPES, "latent"])
@given(new=st.integers(0, 40), cached=tokens)
def test_tokens_one_after_another_cost_what_their_steps_do(shape: ModelShape, new: int, cached: int) -> None:
    steps = [costs.decode_flops(shape, cached + at).total for at in range(1, new + 1)]
    assert costs.span_flops(shape, new, cached) == sum(steps)


def test_shapes_are_one_key_where_they_are_equal() -> None:
    again = shape_from_config(QWEN3_06B)
    assert hash(again) == hash(SHAPES["full"]) and again == SHAPES["full"]
    assert hash(replace(again, vocab=151_935)) != hash(again)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@given(contexts=st.lists(tokens, min_size=1, max_size=4))
def test_a_batch_reads_the_weights_once_and_every_row_its_own_cache(
    shape: ModelShape, contexts: list[int]
) -> None:
    rows = [costs.decode_bytes(shape, context) for context in contexts]
    batch = costs.decode_bytes(shape, *contexts)
    assert (batch.kv_read, batch.kv_write) == (sum(r.kv_read for r in rows), sum(r.kv_write for r in rows))
    assert costs.decode_bytes(shape, contexts[0]) == costs.prefill_bytes(shape, 1, contexts[0] - 1)
    assert batch.weights == costs.weight_read_bytes(shape, len(contexts))
    if shape.experts == 0:
        assert batch.weights == rows[0].weights
    assert costs.decode_flops(shape, *contexts) == sum(
        (costs.decode_flops(shape, context) for context in contexts), Flops()
    )


def test_one_token_reads_its_own_experts_and_a_long_prompt_reads_them_all() -> None:
    head = MOE.vocab * MOE.hidden
    assert costs.weight_read_bytes(MOE) == 2 * (costs.active_linear_weights(MOE) + head)
    assert costs.weight_read_bytes(MOE, 200) == 2 * (costs.linear_weights(MOE) + head)
    assert costs.weight_read_bytes(MOE) < costs.weight_read_bytes(MOE, 2) < costs.weight_read_bytes(MOE, 200)


def test_a_window_bounds_the_cache_that_is_read() -> None:
    sliding = replace(WINDOWED, windows=(64,) * WINDOWED.layers)
    assert costs.decode_bytes(sliding, 64) == costs.decode_bytes(sliding, 4096)
    assert costs.decode_bytes(WINDOWED, 64).kv_read < costs.decode_bytes(WINDOWED, 4096).kv_read


def test_latents_are_cached_in_place_of_keys_and_values_and_expanded_at_each_forward() -> None:
    latent = shape_from_config(tiny_config("deepseek_v3").to_dict())
    assert costs.kv_bytes_per_token(latent) == 2 * 7 * (20 + 16)
    per_token = 2 * 7 * 20 * 4 * (12 + 10)
    more = costs.decode_flops(latent, 101).linear - costs.decode_flops(latent, 1).linear
    assert more == 100 * per_token
    direct = shape_from_config({**tiny_config("deepseek_v3").to_dict(), "q_lora_rank": None})
    saved = costs.linear_weights(latent) - costs.linear_weights(direct)
    assert saved == 7 * (28 * (32 + 4 * 28) - 32 * 4 * 28)


def test_convolutions_keep_what_they_saw_last_however_long_the_text() -> None:
    assert (CONVOLUTIONS.conv_layers, len(CONVOLUTIONS.windows)) == ((0, 1, 3, 4, 6), 2)
    state = 2 * 5 * 3 * 32
    assert costs.state_bytes(CONVOLUTIONS) == state
    short, long = costs.decode_bytes(CONVOLUTIONS, 11), costs.decode_bytes(CONVOLUTIONS, 1001)
    per_token = costs.kv_bytes_per_token(CONVOLUTIONS)
    assert long.kv_read - short.kv_read == 990 * per_token
    assert short.kv_read == 10 * per_token + state and short.kv_write == per_token + state


def test_quantized_weights_and_cache_are_read_at_their_real_width() -> None:
    wide = shape_from_config(LLAMA_8B)
    resident = 3_625_000_000  # bytes of the linears as some loader counted them
    exact = replace(wide, weight_bytes=resident / costs.linear_weights(wide), kv_bytes=34 / 32)
    head = 2 * wide.vocab * wide.hidden
    assert costs.decode_bytes(exact, 11) == Bytes(resident + head, 10 * 69_632, 69_632)
    assert costs.decode_flops(exact, 11) == costs.decode_flops(wide, 11)


def test_the_roofline_is_memory_bound_in_decode_and_compute_bound_in_a_long_prefill() -> None:
    shape, gpu = shape_from_config(LLAMA_8B), catalogue.find("rtx-4090")
    decode = costs.roofline_seconds(
        costs.decode_flops(shape, 1024).total, costs.decode_bytes(shape, 1024).total, gpu, "bf16"
    )
    prefill = costs.roofline_seconds(
        costs.prefill_flops(shape, 1000).total, costs.prefill_bytes(shape, 1000).total, gpu, "bf16"
    )
    assert decode == pytest.approx((15_009_316_864 + 131_072 * 1024) / 1008e9)
    assert prefill == pytest.approx(14_222_100_529_152 / 165.2e12)
    assert costs.roofline_seconds(1, 1, gpu, "fp32") is None


LATENT = {"kv_lora_rank": 20, "qk_nope_head_dim": 12, "qk_rope_head_dim": 16, "v_head_dim": 10}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"model_type": "rwkv"}, "'rwkv'"),
        ({"model_type": None}, "no model_type"),
        ({"model_type": ["llama"]}, "'llama'"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ({"num_attention_heads": 33, "head_dim": 8}, "33 query heads"),
        ({"num_attention_heads": 24}, "no head_dim"),
        ({"model_type": "deepseek_v2"}, "no kv_lora_rank"),
        ({"model_type": "deepseek_v2", **LATENT}, "32 query heads"),
        ({"layer_types": ["linear_attention"] * 32}, "linear_attention"),
        ({"layer_types": ["sliding_attention"] * 32}, "no sliding_window"),
        ({"layer_types": ["full_attention"] * 31}, "31 layer types"),
        ({"layer_types": [{}] * 32}, "layer_types"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "no num_experts_per_tok"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, "3 experts per token"),
    ],
)
def test_a_config_that_cannot_be_priced_is_refused_in_one_line(change: dict[str, object], cause: str) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        shape_from_config({**LLAMA_8B, **change})
    assert cause in str(refused.value)
    assert "\n" not in str(refused.value)
