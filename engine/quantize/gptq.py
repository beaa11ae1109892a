"""Makes a GPTQ checkpoint: solves layer after layer on calibration texts, and writes what others read too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.build import mull_version
from engine.load.checkpoint import Checkpoint
from engine.load.errors import ModelError
from engine.load.json_file import read_json
from engine.load.tokenizer import HubTokenizer
from engine.protocol.quantize import Calibration, Making, Written
from engine.quantize import layers
from engine.quantize.folder import Shards, copy_settings, new_folder, write_config
from engine.quantize.layers import Batch
from engine.quantize.matrices import BYTES, own_bytes
from engine.quantize.models import load
from engine.quantize.pace import Emit, Pace
from engine.quantize.packed import pack
from engine.quantize.solver import DAMPING, Hessian, Solved, solve
from engine.quantize.texts import read_texts, task_prompts, write_greedily

_MULTIPLE = 32
"""Of inputs and of outputs: codes along either fill whole words, for whoever reads them."""
_SEED = 0


def make_gptq(checkpoint: Checkpoint, making: Making, device: str, emit: Emit) -> Written:
    """Write the checkpoint in the format that AutoGPTQ gave its name to. Raises ModelError."""
    if checkpoint.shape.experts:
        raise ModelError(
            f"{checkpoint.folder} has experts, which transformers keeps together and GPTQ solves apart",
            "use --to int4, which rounds them without data",
        )
    plain = checkpoint.source.plain
    with new_folder(Path(making.out), _most_bytes(checkpoint, making)) as folder:
        tokenizer = HubTokenizer(checkpoint.folder)
        model = load(checkpoint, device, emit)
        texts, described = _texts(model, tokenizer, making.calibration, emit)
        shards, solved = Shards(folder), set()
        for module, found in _solved(model, texts, making, device, emit):
            name = next((n for n in (module, module.partition(".")[2]) if f"{n}.weight" in plain), None)
            if name is None:
                raise ModelError(f"{checkpoint.folder} has no {module}.weight", "use --to int4")
            solved.add(f"{name}.weight")
            for part, tensor in gptq_tensors(found).items():
                shards.add(f"{name}.{part}", tensor)
        with checkpoint.source.open() as tensors:
            for name in plain:
                if name not in solved:
                    shards.add(name, tensors[name][...])
        shards.finish()
        copy_settings(checkpoint.folder, folder)
        write_config(folder, read_json(checkpoint.folder / "config.json"), settings(making))
    return Written(
        path=making.out,
        format=f"gptq {making.bits}-bit",
        bytes=shards.nbytes,
        bytes_before=own_bytes(checkpoint),
        matrices=len(solved),
        calibration=described,
    )


def gptq_tensors(solved: Solved) -> dict[str, torch.Tensor]:
    """A matrix's tensors by the last parts of their names, in version 1: each zero is stored less one."""
    zeros = torch.full_like(solved.scales.T, 2 ** (solved.bits - 1) - 1, dtype=torch.uint8)
    return {
        "qweight": pack(solved.codes, solved.bits).T,
        "qzeros": pack(zeros, solved.bits),
        "scales": solved.scales.T,
        "g_idx": solved.group_of.int(),
    }


def settings(making: Making) -> dict[str, Any]:
    """config.json's `quantization_config`."""
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": making.bits,
        "group_size": making.group,
        "sym": True,
        "desc_act": making.descending,
        "static_groups": making.descending,
        "true_sequential": True,
        "damp_percent": DAMPING,
        "lm_head": False,
        "meta": {"quantizer": [f"mull:{mull_version()}"]},
    }


def _most_bytes(checkpoint: Checkpoint, making: Making) -> int:
    """No less than what the checkpoint takes: the codes of every matrix, or its own values."""
    grown = making.bits / 8 / BYTES[checkpoint.source.dtype] + 0.1
    head = ("embed_tokens.weight", "lm_head.weight")
    return sum(
        int(size if name.endswith(head) else size * min(grown, 1.0))
        for name, size in checkpoint.source.sizes.items()
    )


def _texts(
    model: Any, tokenizer: HubTokenizer, calibration: Calibration, emit: Emit
) -> tuple[list[list[int]], str]:
    """What to calibrate with, and how a person is told of it."""
    samples, length = calibration.samples, calibration.length
    if calibration.file is not None:
        path = Path(calibration.file).expanduser()
        texts = read_texts(path, tokenizer, samples, length)
        return texts, f"{len(texts)} texts from {path.name}"
    prompts = [prompt[:length] for prompt in task_prompts(tokenizer, samples, _SEED, "train")]
    pace = Pace(emit, "writing texts to calibrate with", len(prompts), len(prompts))
    written = write_greedily(
        model, prompts, tokenizer.eos_ids, max(length - max(map(len, prompts)), 1), pace.tick
    )
    return [text.ids for text in written], f"{len(written)} texts that the model wrote on the bundled tasks"


@torch.inference_mode()
def _solved(
    model: Any, texts: list[list[int]], making: Making, device: str, emit: Emit
) -> Iterator[tuple[str, Solved]]:
    """Every linear of every layer, by its path; the layers are gone afterwards."""
    path, stack = layers.decoder_layers(model)
    names = {
        f"{path}.{i}.{name}": m for i, layer in enumerate(stack) for name, m in layers.linears(layer).items()
    }
    if not names:
        raise ModelError(f"{type(model).__name__} has no linears in its layers", "use --quant")
    for name, module in names.items():
        if module.in_features % _MULTIPLE or module.out_features % _MULTIPLE:
            raise ModelError(
                f"{name} is {module.out_features} × {module.in_features}, not multiples of {_MULTIPLE}",
                "use --to int8, or a model with wider layers",
            )
    found = layers.batches(model, stack, texts)
    pace = Pace(emit, "solving matrices", len(names), len(stack))
    for number, layer in enumerate(stack):
        layer.to(device, torch.float32)
        groups = layers.sharing(layer, number, found[0])
        for group in groups:
            solved = _solve_group(layer, number, group, found, making, f"{path}.{number}")
            for name, (module, result) in solved.items():
                module.weight.copy_(result.values())
                yield f"{path}.{number}.{name}", result
            pace.step(1 / len(groups), len(group))
        for batch in found:
            batch.hidden = layers.run_layer(layer, number, batch)
        layer.to("meta")


def _solve_group(
    layer: nn.Module, number: int, group: list[str], found: list[Batch], making: Making, path: str
) -> dict[str, tuple[nn.Linear, Solved]]:
    """Linears with the same inputs, by name."""
    modules = layers.linears(layer)
    first = modules[group[0]]
    hessian = Hessian(first.in_features, first.weight.device)
    for batch in found:
        hessian.add(layers.inputs(layer, number, group[0], batch))
    try:
        factor = hessian.factor(making.descending)
    except ValueError as error:
        raise ModelError(f"{path}.{group[0]} cannot be solved: {error}", "use --to int4") from error
    return {
        name: (modules[name], solve(modules[name].weight, factor, making.bits, making.group))
        for name in group
    }
