"""A model written as GGUF is the model: the same logits, the same text, whichever file it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from cli import Home
from gguf_files import ARCHITECTURES, decode, encode, write_gguf
from random_checkpoint import prompt, reference, save_checkpoint

from engine.load.checkpoint import inspect
from engine.load.model import load_model
from engine.load.tokenizer import HubTokenizer
from engine.nn.quant_modules import QuantEmbedding, QuantLinear

WINDOW = 24
SIX_LAYERS = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True, "query_pre_attn_scalar": 64},
    "gemma3_text": {"tie_word_embeddings": True, "query_pre_attn_scalar": 64, **SIX_LAYERS},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3_moe": {"norm_topk_prob": True, "moe_intermediate_size": 256},
}
"""What a GGUF file of the family implies."""


def checkpoint(folder: Path, family: str, **changes: Any) -> Path:
    """Wide enough for blocks of 256; small weights, for the rounding not to be all there is."""
    settings = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 2}
    return save_checkpoint(folder, family, **{**settings, **SETTINGS.get(family, {}), **changes})


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([prompt(2 * WINDOW)])).logits
    return found


def loaded(path: Path) -> Any:
    return load_model(inspect(path), "fp32", "cpu", "eager", lambda *_: None)


def kinds(kind: str) -> Any:
    """The type of each tensor; routers are always float32."""
    return lambda name: "F32" if "gate_inp" in name else kind


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_unquantized_the_logits_are_the_same_bits(tmp_path: Path, family: str) -> None:
    folder = checkpoint(tmp_path, family)
    model = loaded(write_gguf(folder, tmp_path / "model.gguf"))
    assert torch.equal(logits(model), logits(reference(folder)))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K", "Q6_K", "Q5_1"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_quantized_they_are_those_of_transformers_with_the_files_values(
    tmp_path: Path, family: str, kind: str
) -> None:
    # all experts: rounding may choose others
    everyone = {"num_experts_per_tok": 4} if family in ("qwen3_moe", "mixtral") else {}
    folder = checkpoint(tmp_path, family, **everyone)
    expected = reference(folder)
    for name, parameter in expected.named_parameters():
        if parameter.ndim > 1 and not name.endswith("mlp.gate.weight"):
            rounded = decode(encode(parameter.detach().numpy(), kind), kind)
            parameter.data = torch.from_numpy(rounded)
    path = write_gguf(folder, tmp_path / "model.gguf", kinds(kind))
    model = loaded(path)
    difference, scale = (logits(model) - logits(expected)).abs().max(), logits(expected).abs().max()
    assert difference < (0.02 if kind == "Q4_K" else 1e-4) * scale
    kept = [module for module in model.modules() if isinstance(module, QuantLinear)]
    assert bool(kept) == (kind != "Q5_1"), "matrices stay in few bits"
    dense = f"{kind} (made dense)"
    stated = [kind] if kept and not family.startswith("gemma") else [kind, dense] if kept else [dense]
    assert inspect(path).source.quantization == f"gguf {', '.join(stated)}"


def test_an_embedding_and_the_head_that_is_tied_to_it_stay_quantized(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "qwen2")
    model = loaded(write_gguf(folder, tmp_path / "model.gguf", "Q6_K"))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, QuantEmbedding) and isinstance(head, QuantLinear)
    assert embedding.matrix is head.matrix


def test_a_layer_may_mix_types_as_q4_k_m_does(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "qwen3_moe")

    def mixed(name: str) -> str:
        return kinds("Q6_K" if "attn_v" in name or "ffn_up_exps" in name else "Q4_0")(name)

    path = write_gguf(folder, tmp_path / "model.gguf", mixed)
    expected = reference(folder)
    for name, parameter in expected.named_parameters():
        if parameter.ndim > 1 and not name.endswith("mlp.gate.weight"):
            values = parameter.detach().numpy()
            rounded = decode(encode(values, "Q4_0"), "Q4_0")
            if name.endswith("v_proj.weight"):
                rounded = decode(encode(values, "Q6_K"), "Q6_K")
            elif name.endswith("gate_up_proj"):
                rounded[:, 256:] = decode(encode(np.ascontiguousarray(values[:, 256:]), "Q6_K"), "Q6_K")
            parameter.data = torch.from_numpy(rounded)
    assert torch.allclose(logits(loaded(path)), logits(expected), atol=1e-3)
    assert inspect(path).source.quantization == "gguf Q4_0, Q6_K, Q4_0 (made dense), Q6_K (made dense)"


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def llama3_factors(head_dim: int) -> np.ndarray:
    """What llama.cpp's converter writes as rope_freqs, from Meta's published code."""
    lengths = 2 * np.pi * 10000.0 ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (64 / lengths - 1) / (4 - 1)
    factors = np.where(lengths > 64, 8.0, 1 / ((1 - smooth) / 8 + smooth))
    return np.where(lengths < 64 / 4, 1.0, factors).astype(np.float32)


@pytest.mark.parametrize("scaling", ["llama3", "linear", "yarn"])
def test_scaled_rotary_embeddings_are_the_models(
    tmp_path: Path, scaling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rope: dict[str, Any] = {"rope_type": scaling, "rope_theta": 10000.0, "factor": 4.0}
    changes: dict[str, Any] = {"llama.rope.scaling.type": scaling, "llama.rope.scaling.factor": 4.0}
    if scaling == "yarn":
        rope["original_max_position_embeddings"] = 256
        changes["llama.rope.scaling.original_context_length"] = 256
    if scaling == "llama3":
        rope, changes = LLAMA3, {}
        add = gguf.GGUFWriter.write_header_to_file

        def with_factors(writer: gguf.GGUFWriter) -> None:
            writer.add_tensor("rope_freqs.weight", llama3_factors(64))
            add(writer)

        monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_factors)
    folder = checkpoint(tmp_path, "llama", rope_parameters=rope)
    model = loaded(write_gguf(folder, tmp_path / "model.gguf", **changes))
    assert torch.allclose(logits(model), logits(reference(folder)), atol=2e-4)
    plain = loaded(write_gguf(checkpoint(tmp_path, "llama"), tmp_path / "plain.gguf"))
    if scaling != "llama3":
        assert not torch.allclose(logits(model), logits(plain), atol=1e-2), "the scaling does something"


def test_a_model_in_several_files_loads_by_any_of_them(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "llama")
    whole = loaded(write_gguf(folder, tmp_path / "whole.gguf"))
    make = gguf.GGUFWriter

    def splitting(path: Path, architecture: str) -> gguf.GGUFWriter:
        return make(path, architecture, split_max_tensors=5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFWriter", splitting)
        write_gguf(folder, tmp_path / "parts.gguf")
    parts = sorted(tmp_path.glob("parts-*.gguf"))
    assert len(parts) == 5
    for part in (parts[0], parts[3]):
        assert torch.equal(logits(loaded(part)), logits(whole))
        assert inspect(part).source.files == tuple(parts)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_command_line_gives_the_same_text_from_both_files(
    home: Home, tmp_path: Path, family: str
) -> None:
    folder = checkpoint(tmp_path, family)
    path = write_gguf(folder, tmp_path / "as.gguf")
    asked = ("--max-tokens", "24", "hello")
    answers = [home.ask("--model", str(place), *asked) for place in (folder, path)]
    assert answers[0]["answer"] == answers[1]["answer"]
    assert answers[0]["receipt"]["tokens"]["answer"] == answers[1]["receipt"]["tokens"]["answer"] > 0
    assert answers[1]["model"] == "as.gguf"
    assert HubTokenizer(path).vocabulary == HubTokenizer(folder).vocabulary


def test_a_file_that_was_replaced_is_loaded_anew(home: Home, tmp_path: Path) -> None:
    asked = ("--model", str(tmp_path / "model.gguf"), "--max-tokens", "8", "hello")
    answers = []
    for seed in (0, 1):
        folder = checkpoint(tmp_path / f"of-{seed}", "qwen3", seed=seed)
        write_gguf(folder, tmp_path / "model.gguf")
        answers.append(home.ask(*asked)["answer"])
        assert answers[-1] == home.ask(*asked)["answer"]
    assert answers[0] != answers[1]
