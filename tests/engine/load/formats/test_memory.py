"""Loading quantized experts takes about what they take in the files, never what they would take dense."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

EXPERTS, HIDDEN, INNER, LAYERS, HEADS, GROUP = 32, 1024, 512, 4, 8, 128
QUANTIZATION = {"quant_method": "gptq", "bits": 4, "group_size": GROUP}
WEIGHTS = LAYERS * EXPERTS * 3 * HIDDEN * INNER
"""Of all experts: 201 million."""
SCRIPT = """
import re, sys
from pathlib import Path
import psutil
from engine.load.checkpoint import inspect
from engine.load.model import load_model

checkpoint = inspect(Path(sys.argv[1]))
before = psutil.Process().memory_info().rss
load_model(checkpoint, "fp32", "cpu", "sdpa", lambda *_: None)
# of this program alone: ru_maxrss counts what the one that started it had
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) * 1024 - before)
"""


def gptq(outputs: int, inputs: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, generator=generator)

    return {
        "qweight": words(inputs // 8, outputs),
        "qzeros": words(inputs // GROUP, outputs // 8),
        "scales": torch.rand((inputs // GROUP, outputs), generator=generator).half() / 100,
        "g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def save(folder: Path) -> None:
    """A qwen3_moe with random codes, a shard per layer; nothing of it is ever dense."""
    generator = torch.Generator().manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe",
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        moe_intermediate_size=INNER,
        num_experts=EXPERTS,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HIDDEN // HEADS,
        vocab_size=256,
        tie_word_embeddings=True,
    ).to_dict()
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTIZATION}))
    weight_map = {}
    for shard in range(LAYERS + 1):
        tensors: dict[str, torch.Tensor] = {}
        if shard == LAYERS:
            tensors |= {"model.embed_tokens.weight": torch.zeros(256, HIDDEN, dtype=torch.bfloat16)}
            tensors |= {"model.norm.weight": torch.ones(HIDDEN)}
        else:
            layer = f"model.layers.{shard}"
            tensors |= {
                f"{layer}.{norm}_layernorm.weight": torch.ones(HIDDEN) for norm in ("input", "post_attention")
            }
            tensors |= {f"{layer}.self_attn.{norm}_norm.weight": torch.ones(HIDDEN // HEADS) for norm in "qk"}
            tensors |= {f"{layer}.mlp.gate.weight": torch.zeros(EXPERTS, HIDDEN)}
            shapes = {f"self_attn.{part}_proj": (HIDDEN, HIDDEN) for part in "qkvo"}
            for expert in range(EXPERTS):
                shapes |= {f"mlp.experts.{expert}.{part}_proj": (INNER, HIDDEN) for part in ("gate", "up")}
                shapes |= {f"mlp.experts.{expert}.down_proj": (HIDDEN, INNER)}
            for matrix, shape in shapes.items():
                parts = gptq(*shape, generator).items()
                tensors |= {f"{layer}.{matrix}.{part}": value for part, value in parts}
        weight_map |= dict.fromkeys(tensors, f"model-{shard}.safetensors")
        save_file(tensors, folder / f"model-{shard}.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_the_peak_of_loading_experts_stays_near_their_quantized_size(tmp_path: Path) -> None:
    """The files once, as the system's own pages of them; the matrices once; and some of one layer twice."""
    save(tmp_path)
    files = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    dense = 4 * WEIGHTS
    assert 100e6 < files < int(ran.stdout) < 3 * files < dense / 2
