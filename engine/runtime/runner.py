"""Puts token ids through the model, one sequence at a time, and counts them. Knows no sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.runtime import sequence as sequences
from engine.runtime.pages import PagePool
from engine.runtime.step import Step

Forward = Callable[[Sequence[int], Step, bool], torch.Tensor | None]
"""(ids, step, whether logits are wanted) to the last row's logits, [vocabulary]."""


class StockForward:
    """transformers' own forward, with our attention in it."""

    def __init__(self, model: Any, context: int) -> None:
        self._model = model
        self._positions = torch.arange(context, device=model.device)[None]

    def __call__(self, ids: Sequence[int], step: Step, logits: bool) -> torch.Tensor | None:
        inputs = {
            "input_ids": torch.tensor([ids], device=self._positions.device),
            "position_ids": self._positions[:, step.start : step.total],
            "use_cache": False,
            "step": step,
        }
        if not logits:
            self._model.base_model(**inputs)
            return None
        out: torch.Tensor = self._model(**inputs, logits_to_keep=1).logits[0, -1]
        return out


class Runner:
    """Runs forwards over a pool; `forwarded_tokens` counts what was put in, whatever the accounts say."""

    def __init__(self, forward: Forward, pool: PagePool) -> None:
        self.pool = pool
        self.forwarded_tokens = 0
        self._forward = forward

    @torch.inference_mode()
    def forward(self, sequence: sequences.Sequence, ids: Sequence[int], *, logits: bool = True) -> None:
        """Put ids after the sequence's cached ones; with `logits`, leave the last row's in the sequence.

        Raises MemoryError where pages run out, with the sequence as it was.
        """
        start, length = sequence.cached, len(ids)
        sequence.reserve(start + length)
        out = self._forward(ids, Step(self.pool, sequence.table, start, length), logits)
        self.forwarded_tokens += length
        sequence.cached += length
        sequence.logits = None if out is None else out.float().cpu().numpy()
