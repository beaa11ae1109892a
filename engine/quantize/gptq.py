"""Makes a GPTQ checkpoint: solves layer after layer on calibration texts, and writes what others read too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from engine.quantize.experts import MATRICES, SolvedExpert, experts_in, solve_experts, stored_names
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


@dataclass(frozen=True)
class SolvedLinear:
    """A linear by its path in the model."""

    module: str
    solved: Solved


def make_gptq(checkpoint: Checkpoint, making: Making, device: str, emit: Emit) -> Written:
    """Write the checkpoint in the format that AutoGPTQ gave its name to. Raises ModelError."""
    plain = checkpoint.source.plain
    of_experts = stored_names(plain)
    if checkpoint.shape.experts and not of_experts:
        raise ModelError(
            f"{checkpoint.folder} has all experts of a layer in one tensor; the format has no place for it",
            "use --quant, which loads it quantized",
        )
    with new_folder(Path(making.out), _most_bytes(checkpoint, making)) as folder:
        tokenizer = HubTokenizer(checkpoint.folder)
        model = load(checkpoint, device, emit)
        texts, described = _texts(model, tokenizer, making.calibration, emit)
        shards, solved, rounded = Shards(folder), set(), 0
        for found in _solved(model, texts, making, device, emit):
            if isinstance(found, SolvedExpert):
                name, rounded = of_experts.get(found.place), rounded + found.rounded
                module = "{2} matrix of expert {1} in layer {0}".format(*found.place)
            else:
                module = f"{found.module}.weight"
                name = next((n for n in (module, module.partition(".")[2]) if n in plain), None)
            if name is None:
                raise ModelError(f"{checkpoint.folder} has no {module} of its own", "use --quant")
            solved.add(name)
            for part, tensor in gptq_tensors(found.solved).items():
                shards.add(f"{name.removesuffix('.weight')}.{part}", tensor)
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
        rounded=rounded,
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
) -> Iterator[SolvedLinear | SolvedExpert]:
    """Every matrix of every layer; the layers are gone afterwards."""
    path, stack = layers.decoder_layers(model)
    count = 0
    for number, layer in enumerate(stack):
        experts = experts_in(layer)
        shapes = {name: tuple(linear.weight.shape) for name, linear in layers.linears(layer).items()}
        count += len(shapes) + sum(MATRICES * module.num_experts for module in experts.values())
        for name, module in experts.items():
            outputs, inputs = module.down_proj.shape[1:]
            shapes |= {f"{name} up": (inputs, outputs), f"{name} down": (outputs, inputs)}
        for name, (outputs, inputs) in shapes.items():
            if outputs % _MULTIPLE or inputs % _MULTIPLE:
                raise ModelError(
                    f"{path}.{number}.{name} is {outputs} × {inputs}, not multiples of {_MULTIPLE}",
                    "use --to int8, or a model with wider layers",
                )
    if not count:
        raise ModelError(f"{type(model).__name__} has no linears in its layers", "use --quant")
    found = layers.batches(model, stack, texts)
    pace = Pace(emit, "solving matrices", count, len(stack))
    for number, layer in enumerate(stack):
        layer.to(device, torch.float32)
        groups, experts = layers.sharing(layer, number, found[0]), experts_in(layer)
        steps = len(groups) + len(experts)
        for group in groups:
            solved = _solve_group(layer, number, group, found, making, f"{path}.{number}")
            for name, (module, result) in solved.items():
                module.weight.copy_(result.values())
                yield SolvedLinear(f"{path}.{number}.{name}", result)
            pace.step(1 / steps, len(group))
        for name, module in experts.items():
            for each in solve_experts(layer, number, name, found, making):
                yield each
                pace.step(1 / steps / (MATRICES * module.num_experts))
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
