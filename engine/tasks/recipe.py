"""The bundled model's recipe: architecture, initialisation, optimizers, loss and learning rate.

Knows nothing of files or of the length of a run; train.py runs it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.masking_utils import AttentionMaskInterface

from engine.tasks.corpus import IGNORED, Block, padded_length
from engine.tasks.muon import Muon

WARMUP_STEPS = 60
CONSTANT_SHARE = 0.2  # of the run at the full learning rate, before the linear decay
FINAL_RATE_SHARE = 0.02
EXIT_WEIGHT = 0.15  # share of the loss that is taken at the middle layer


@dataclass(frozen=True)
class TrainingArguments:
    """Everything that decides the trained weights."""

    seed: int = 0
    start: str | None = None  # the checkpoint whose weights it begins with; then nothing is easy any more
    minutes: float = 40.0
    steps: int | None = None  # when set, the length of the run instead of `minutes`
    batch_tokens: int = 6144
    muon_rate: float = 0.02
    adamw_rate: float = 3e-3
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    feed_forward: int = 512


def _causal_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention for rows padded on the right: causal order alone keeps padding out of sight.

    Shapes: query (rows, heads, length, head_dim), key and value (rows, kv_heads, length, head_dim).
    """
    with torch.autocast(query.device.type, enabled=False):  # in bf16 a CPU takes five times as long here
        query, key, value = query.float(), key.float(), value.float()
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
    return mixed.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register("mull_training", _causal_attention)
AttentionMaskInterface.register("mull_training", _no_mask)


def build_model(arguments: TrainingArguments, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A randomly initialised model: N(0, 1/sqrt(fan_in)), layer outputs scaled by 1/sqrt(2 layers)."""
    torch.manual_seed(arguments.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden,
        intermediate_size=arguments.feed_forward,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.kv_heads,
        head_dim=arguments.head_dim,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
        attn_implementation="mull_training",
    )
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2:
            continue
        spread = 0.02 if "embed" in name else 1 / math.sqrt(parameter.shape[1])
        if "o_proj" in name or "down_proj" in name:
            spread /= math.sqrt(2 * arguments.layers)
        torch.nn.init.normal_(parameter, std=spread)
    return model


def warm_start(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Take the weights of a checkpoint of the same architecture, whatever its vocabulary.

    A token that its tokenizer lacks begins at the mean of the tokens that make it up there. Raises ValueError
    where a matrix has another shape.
    """
    earlier = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pieces = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    known, embedding = pieces.get_vocab(), earlier.model.embed_tokens.weight
    with torch.no_grad():
        for token, index in tokenizer.get_vocab().items():
            ids = [known[token]] if token in known else pieces.encode(tokenizer.decode([index]))
            model.model.embed_tokens.weight[index] = embedding[ids].mean(0)
        weights = dict(earlier.named_parameters())
        for name, parameter in model.named_parameters():
            if name == "model.embed_tokens.weight":
                continue
            if weights[name].shape != parameter.shape:
                raise ValueError(f"{name} of {folder} has another shape")
            parameter.copy_(weights[name])


def build_optimizers(model: Qwen3ForCausalLM, arguments: TrainingArguments) -> list[torch.optim.Optimizer]:
    """Muon on the hidden matrices, AdamW on embeddings and norms."""
    precision = torch.bfloat16 if multiplies_bf16(model.device) else torch.float32
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else rest).append(parameter)
    return [
        Muon(matrices, lr=arguments.muon_rate, precision=precision),
        torch.optim.AdamW(rest, lr=arguments.adamw_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def multiplies_bf16(device: torch.device) -> bool:
    """Whether products are quicker in bfloat16: on a GPU, and on a CPU with units for them."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def to_tensors(block: Block, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and labels of a block, each (rows, length), padded on the right."""
    length = padded_length(block)
    ids = torch.tensor([e.ids + [pad_id] * (length - len(e.ids)) for e in block])
    labels = torch.tensor([e.labels + [IGNORED] * (length - len(e.labels)) for e in block])
    return ids.to(device), labels.to(device)


@dataclass(frozen=True)
class Loss:
    """Cross-entropy summed over the learned tokens of a block: at the end, and at the early exit."""

    final: Tensor
    exit: Tensor

    @property
    def trained(self) -> Tensor:
        """What is minimised."""
        return (1 - EXIT_WEIGHT) * self.final + EXIT_WEIGHT * self.exit


def block_loss(model: Qwen3ForCausalLM, ids: Tensor, labels: Tensor) -> Loss:
    """The losses of a block; logits are computed at the learned positions only.

    The early exit reads the middle layer through the final norm and the head, as drafts by early exit do.
    """
    targets = labels[:, 1:]
    learned = targets != IGNORED
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=multiplies_bf16(ids.device)):
        states = model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
        middle = states.hidden_states[model.config.num_hidden_layers // 2][:, :-1][learned]
        final = states.last_hidden_state[:, :-1][learned]
        logits = [model.lm_head(hidden) for hidden in (final, model.model.norm(middle))]
    return Loss(*(F.cross_entropy(each.float(), targets[learned], reduction="sum") for each in logits))


def rate_share(step: int, progress: float) -> float:
    """The share of the full learning rate after `step` steps and `progress` (0 to 1) of the run."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    decay = 1.0 if progress < CONSTANT_SHARE else (1 - progress) / (1 - CONSTANT_SHARE)
    return warmup * max(FINAL_RATE_SHARE, decay)
