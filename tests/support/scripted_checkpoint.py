"""A real checkpoint that says what a test wants: each token is followed by the one that the script names.

Attention and MLP compute as in any model and add nothing (their output projections are zero), and the untied
head maps each token's embedding to its successor. Forward pass, pages and sampler are the real ones.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


def write(
    folder: Path, tokenizer_of: Path, successor: Mapping[int, int], vocab: int, **config: object
) -> Path:
    """Write the checkpoint into `folder`, with the tokenizer of another model; unnamed tokens repeat."""
    settings: dict[str, object] = {
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 2048,
    }
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(vocab_size=vocab, tie_word_embeddings=False, **{**settings, **config})  # type: ignore[arg-type]
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        after = torch.tensor([successor.get(token, token) for token in range(vocab)])
        head = torch.zeros_like(model.lm_head.weight)
        # a row that several tokens lead to answers to each of them
        head.index_add_(0, after, model.model.embed_tokens.weight)
        model.lm_head.weight.copy_(head)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "mull.json"):
        if (tokenizer_of / name).exists():
            shutil.copy(tokenizer_of / name, folder / name)
    return folder
