"""Whether a faster forward may stand in for the model's own: it must give the same logits."""

from __future__ import annotations

import torch

from engine.load.errors import ModelError
from engine.nn.fused import FusedDecoder
from engine.runtime.pages import PagePool
from engine.runtime.runner import Forward, StockForward
from engine.runtime.step import Segment, Step

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of two logits, in units of their standard deviation."""

_PROMPT, _TOKEN = (5, 12, 19, 26, 1, 8), 3

_NOT_PAGED = "use a decoder-only model with ordinary attention, such as Llama, Qwen3, Mistral or Gemma"


class _Recording(Segment):
    """A segment that notes each layer's window as the layer asks for its keys."""

    def __init__(self, pool: PagePool, table: list[int], start: int, length: int) -> None:
        super().__init__(pool, table, start, length)
        self.windows: dict[int, int | None] = {}
        self._asked: int | None = None

    def first_key(self, window: int | None, position: int | None = None) -> int:
        self._asked = window
        return super().first_key(window, position)

    def read(self, layer: int, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.windows[layer] = self._asked
        return super().read(layer, first)


@torch.inference_mode()
def fastest_forward(
    model: object, stock: StockForward, pool: PagePool, context: int, packed: bool = False
) -> Forward:
    """The fused forward where the model is built so and the logits agree, else transformers' own.

    Raises ModelError where a layer does not go through our attention, or `packed` weights do not agree.
    """
    length = len(_PROMPT)
    table: list[int] = []
    pool.grow(table, 1)
    try:
        recording = _Recording(pool, table, length, 1)
        try:
            expected = _two_forwards(stock, Segment(pool, table, 0, length), recording)
        except Exception as error:  # modelling code that was not made for another attention fails as it likes
            raise ModelError(f"{type(model).__name__} cannot run over pages: {error}", _NOT_PAGED) from error
        if recording.windows.keys() != set(range(pool.layers)):
            raise ModelError(
                f"{type(model).__name__} does not keep keys and values of its own in each layer",
                _NOT_PAGED,
            )
        windows = [recording.windows[layer] for layer in range(pool.layers)]

        def agrees(forward: Forward) -> bool:
            found = _two_forwards(forward, Segment(pool, table, 0, length), Segment(pool, table, length, 1))
            difference = (found - expected).abs().max() / expected.std()
            return bool(difference < TOLERANCE[model.dtype])  # type: ignore[attr-defined]

        chosen: Forward = stock
        try:
            fused = FusedDecoder(model, windows, context)
            chosen = fused if agrees(fused) else stock
        except (ValueError, AttributeError, RuntimeError):  # built otherwise, in name or in shape
            pass
        if packed:
            chosen.pack()
            if not agrees(chosen):
                raise ModelError(
                    f"{type(model).__name__} computes other logits with weights packed for this processor",
                    "report this, with the processor's name",
                )
        return chosen
    finally:
        pool.release(table)


def _two_forwards(forward: Forward, prompt: Segment, token: Segment) -> torch.Tensor:
    """Logits after a short prompt and after one token more, [2, vocabulary], in float32."""
    rows = [
        forward(_PROMPT, Step(prompt.pool, [prompt]), [prompt.length - 1]),
        forward([_TOKEN], Step(token.pool, [token]), [0]),
    ]
    return torch.cat([row for row in rows if row is not None]).float()
