"""A checkpoint at real cost: Qwen3-0.6B's shape with random weights and a vocabulary of 32,000."""

from __future__ import annotations

from pathlib import Path

import torch
from random_checkpoint import save_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

CONFIG = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def save(folder: Path, dtype: str = "bf16") -> Path:
    """Write the checkpoint into `folder`; dtype fp32 or bf16."""
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPES[dtype])
    Qwen3ForCausalLM(Qwen3Config(**CONFIG)).save_pretrained(folder)  # type: ignore[arg-type]
    torch.set_default_dtype(torch.float32)
    save_tokenizer(folder)
    return folder
