"""Products with matrices in few bits against fp32 ones packed by oneDNN: quantized_products.py --threads N.

On the shapes of Qwen3-0.6B's layers, with random weights in more copies than a processor's cache holds. The
kinds take turns, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "support"))
from quantized_matrices import random_matrix

from engine.nn.kernels.cpu import ready
from engine.nn.linear import Packed, Plain
from engine.nn.quant_product import product
from engine.nn.quantized import Quantized
from engine.nn.rounding import GROUPS

LAYER = {"qkv": (4096, 1024), "o": (1024, 2048), "gate_up": (6144, 1024), "down": (1024, 3072)}
"""Outputs and inputs of one layer's products."""
LAYERS = 3
"""Copies of the layer: 180 MB in fp32, 24 MB in 4 bits."""


def matrix(kind: str, outputs: int, inputs: int) -> Quantized:
    return random_matrix(kind, outputs, inputs, group=GROUPS.get(kind, inputs))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 128, 512])
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes = [shape for _ in range(LAYERS) for shape in LAYER.values()]
    weights = sum(outputs * inputs for outputs, inputs in shapes)
    products: dict[str, list[Callable[[torch.Tensor], torch.Tensor]]] = {
        "fp32": [Packed(Plain(torch.randn(shape))) for shape in shapes]
    }
    read = {"fp32": 4 * weights}
    for kind in ("s8", "u4", "f8"):
        matrices = [matrix(kind, *shape) for shape in shapes]
        products[kind] = [lambda x, few=few: product(x, few) for few in matrices]
        read[kind] = sum(few.codes.nbytes for few in matrices)
    kernel = ready(matrices[0])
    name = kernel.instruction_set if kernel else "none"
    print(
        f"{options.threads} threads, kernels {name}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    with torch.inference_mode():
        for rows in options.rows:
            inputs = {width: torch.randn(rows, width) for _, width in LAYER.values()}
            seconds: dict[str, list[float]] = {name: [] for name in products}
            for run in range(options.runs + 1):
                for name, ones in products.items():
                    began = time.perf_counter()
                    for one, (_, width) in zip(ones, shapes, strict=True):
                        one(inputs[width])
                    if run:  # the first warms up
                        seconds[name].append(time.perf_counter() - began)
            medians = {name: statistics.median(values) for name, values in seconds.items()}
            for name, median in medians.items():
                print(
                    f"{rows:4d} rows  {name:5s} {1000 * median / LAYERS:8.3f} ms a layer"
                    f" (from {1000 * min(seconds[name]) / LAYERS:.3f})"
                    f"  {read[name] / median / 1e9:5.1f} GB/s of codes"
                    f"  {2 * rows * weights / median / 1e9:5.0f} GFLOP/s"
                    f"  {medians['fp32'] / median:5.2f}x"
                )


if __name__ == "__main__":
    main()
