"""Makes a checkpoint by rounding, matrix by matrix, straight from one file to the other."""

from __future__ import annotations

import math
from pathlib import Path

from engine.load.checkpoint import Checkpoint
from engine.load.errors import ModelError
from engine.load.json_file import read_json
from engine.load.plan import KINDS, QuantPlan
from engine.nn.rounding import round_matrix
from engine.protocol.quantize import Making, Written
from engine.quantize.folder import Shards, copy_settings, new_folder, write_config
from engine.quantize.matrices import BYTES, find_matrices, own_bytes
from engine.quantize.pace import Emit, Pace
from engine.quantize.packed import Rule, packed, rule_of, settings


def make_rounded(checkpoint: Checkpoint, making: Making, emit: Emit) -> Written:
    """Write the checkpoint as compressed-tensors. Raises ModelError."""
    plan = QuantPlan(KINDS[making.to])
    matrices = find_matrices(checkpoint, plan)
    shapes, itemsize = checkpoint.source.plain, BYTES[checkpoint.source.dtype]
    quantized = {f"{name}.weight" for name in matrices.kinds}
    needed = sum(
        math.prod(shape) * (plan.bytes_each(name, shape, itemsize) if name in quantized else itemsize)
        for name, shape in shapes.items()
    )
    rules: dict[str, Rule] = {}
    pace = Pace(emit, "rounding matrices", len(quantized), sum(math.prod(shapes[name]) for name in quantized))
    with new_folder(Path(making.out), int(needed)) as folder, checkpoint.source.open() as tensors:
        shards = Shards(folder)
        for name in shapes:
            values = tensors[name][...]
            if name not in quantized:
                shards.add(name, values)
                continue
            module = name.removesuffix(".weight")
            try:
                matrix = round_matrix(values, matrices.kinds[module], plan.group(name, shapes[name]))
            except ValueError as error:
                raise ModelError(f"{checkpoint.folder}: {module} cannot be quantized: {error}") from error
            rules[module] = rule_of(matrix)
            for part, tensor in packed(matrix).items():
                shards.add(f"{module}.{part}", tensor)
            pace.step(matrix.elements)
        shards.finish()
        copy_settings(checkpoint.folder, folder)
        quantization = settings(rules, matrices.plain)
        write_config(folder, read_json(checkpoint.folder / "config.json"), quantization)
    return Written(
        path=making.out,
        format="compressed-tensors pack-quantized",
        bytes=shards.nbytes,
        bytes_before=own_bytes(checkpoint),
        matrices=len(rules),
    )
