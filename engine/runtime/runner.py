"""Puts token ids through the model, one sequence at a time, and counts them. Knows no sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.runtime import sequence as sequences
from engine.runtime.pages import PagePool
from engine.runtime.step import Step

Forward = Callable[[torch.Tensor, torch.Tensor, Step, bool], torch.Tensor | None]
"""(ids [1, n], positions [1, n], step, whether logits are wanted) to the last row's logits [vocabulary]."""


def stock_forward(model: Any) -> Forward:
    """transformers' own forward, with our attention in it."""

    def forward(ids: torch.Tensor, positions: torch.Tensor, step: Step, logits: bool) -> torch.Tensor | None:
        inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False, "step": step}
        if not logits:
            model.base_model(**inputs)
            return None
        out: torch.Tensor = model(**inputs, logits_to_keep=1).logits[0, -1]
        return out

    return forward


class Runner:
    """Runs forwards over a pool; `forwarded_tokens` counts rows × lengths, whatever the accounts say."""

    def __init__(self, forward: Forward, pool: PagePool, context: int, device: str) -> None:
        self.pool = pool
        self.forwarded_tokens = 0
        self._forward = forward
        self._device = device
        self._positions = torch.arange(context, device=device)[None]

    @torch.inference_mode()
    def forward(self, sequence: sequences.Sequence, ids: Sequence[int], *, logits: bool = True) -> None:
        """Put ids after the sequence's cached ones; with `logits`, leave the last row's in the sequence.

        Raises MemoryError where pages run out, with the sequence as it was.
        """
        start, length = sequence.cached, len(ids)
        sequence.reserve(start + length)
        step = Step(self.pool, sequence.table, start, length)
        row = torch.tensor([ids], device=self._device)
        out = self._forward(row, self._positions.narrow(1, start, length), step, logits)
        self.forwarded_tokens += length
        sequence.cached += length
        sequence.logits = None if out is None else out.float().cpu().numpy()
