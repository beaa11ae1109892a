"""Whether a faster forward may stand in for the model's own: it must give the same logits."""

from __future__ import annotations

import torch

from engine.nn.fused import FusedDecoder
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.runner import Forward, StockForward
from engine.runtime.step import Step

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of two logits, in units of their standard deviation."""

_PROMPT = 6


class _Recording(Step):
    """A step that notes each layer's window as the layer asks for its keys."""

    def __init__(self, pool: PagePool, table: list[int], start: int, length: int) -> None:
        super().__init__(pool, table, start, length)
        self.windows: dict[int, int | None] = {}

    def read(self, layer: int, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        self.windows[layer] = window
        return super().read(layer, window)


@torch.inference_mode()
def fastest_forward(model: object, stock: StockForward, pool: PagePool, context: int) -> Forward:
    """The fused forward where the model is built so and the logits agree, else transformers' own."""
    table = pool.allocate(-(-(_PROMPT + 1) // PAGE))
    try:
        recording = _Recording(pool, table, _PROMPT, 1)
        expected = _two_forwards(stock, Step(pool, table, 0, _PROMPT), recording)
        windows = [recording.windows[layer] for layer in sorted(recording.windows)]
        try:
            fused = FusedDecoder(model, windows, context)
            found = _two_forwards(fused, Step(pool, table, 0, _PROMPT), Step(pool, table, _PROMPT, 1))
        except (ValueError, AttributeError, RuntimeError):  # built otherwise, in name or in shape
            return stock
        difference = (found - expected).abs().max() / expected.std()
        return fused if difference < TOLERANCE[model.dtype] else stock  # type: ignore[attr-defined]
    finally:
        pool.release(table)


def _two_forwards(forward: Forward, prompt: Step, token: Step) -> torch.Tensor:
    """Logits after a short prompt and after one token more, [2, vocabulary], in float32."""
    rows = [forward([7 * i + 5 for i in range(_PROMPT)], prompt, True), forward([3], token, True)]
    return torch.stack([row for row in rows if row is not None]).float()
