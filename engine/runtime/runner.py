"""Puts ids of several sequences through the model in one forward, and counts them. Knows no sampling."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from engine.nn.linear import pack_modules
from engine.runtime import sequence as sequences
from engine.runtime.pages import PagePool
from engine.runtime.pool import Pool
from engine.runtime.step import Segment, Step


class Forward(Protocol):
    """One pass of ids through the model, at the positions and over the pages of a step."""

    def __call__(self, ids: Sequence[int], step: Step, logits_of: Sequence[int]) -> torch.Tensor | None:
        """The logits of the tokens at these indices, [wanted, vocabulary]; None for none."""
        ...

    def pack(self) -> None:
        """Pack the matrices for the processor; see `engine.nn.linear`."""
        ...


class StockForward:
    """transformers' own forward, with our attention in it."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def pack(self) -> None:
        """Pack the model's linears."""
        pack_modules(self._model)

    def __call__(self, ids: Sequence[int], step: Step, logits_of: Sequence[int]) -> torch.Tensor | None:
        device = self._model.device
        inputs = {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": step.positions(device)[None],
            "use_cache": False,
            "step": step,
        }
        if not logits_of:
            self._model.base_model(**inputs)
            return None
        wanted = torch.tensor(logits_of, device=device)
        out: torch.Tensor = self._model(**inputs, logits_to_keep=wanted).logits[0]
        return out


@dataclass(frozen=True)
class Row:
    """Ids to put after a sequence's cached ones, and of how many of the last the logits are wanted.

    `again`: they were in the pages before. `last`: nothing more is wanted after them. The last `drafts` of
    them are guesses, without which the forward is worth as much.
    """

    sequence: sequences.Sequence
    ids: Sequence[int]
    logits: int = 1
    again: bool = False
    last: bool = False
    drafts: int = 0

    def without_drafts(self) -> Row:
        """The same with what is known to come, and no guesses."""
        if not self.drafts:
            return self
        return replace(self, ids=self.ids[: -self.drafts], logits=self.logits - self.drafts, drafts=0)


class AnyRunner(Protocol):
    """Runs forwards over the sequences of a pool, and counts what was put in, whatever the accounts say."""

    rows: int
    """Sequences that one forward takes at most."""
    forwarded_tokens: int

    @property
    def pool(self) -> Pool: ...

    def run(
        self, rows: Sequence[Row], interrupted: Callable[[], bool] | None = None
    ) -> list[torch.Tensor | None]:
        """See `Runner.run`."""
        ...


class Runner:
    """Runs forwards over a pool; `forwarded_tokens` counts what was put in, whatever the accounts say.

    `exact` makes a token's bits independent of what is computed with it, see `Step`.
    """

    rows = sys.maxsize

    def __init__(self, forward: Forward, pool: PagePool, exact: bool = False) -> None:
        self.pool = pool
        self.exact = exact
        self.forwarded_tokens = 0
        self._forward = forward

    @torch.inference_mode()
    def run(
        self, rows: Sequence[Row], interrupted: Callable[[], bool] | None = None
    ) -> list[torch.Tensor | None]:
        """One forward over all rows; each row's logits, [wanted, vocabulary], float32.

        Each sequence then has its ids cached, and its last logits. Raises MemoryError where pages run out
        and Interrupted, with all sequences as they were.
        """
        for row in rows:
            row.sequence.reserve(row.sequence.cached + len(row.ids))
        segments = [Segment(self.pool, row.sequence.table, row.sequence.cached, len(row.ids)) for row in rows]
        ids: list[int] = []
        wanted: list[int] = []
        for row in rows:
            ids += row.ids
            wanted += range(len(ids) - row.logits, len(ids))
        out = self._forward(ids, Step(self.pool, segments, self.exact, interrupted), wanted)
        self.forwarded_tokens += len(ids)
        parts: list[torch.Tensor | None] = []
        taken = 0
        if out is not None:
            out = out.float()
            host = out.cpu().numpy()
        for row in rows:
            row.sequence.cached += len(row.ids)
            row.sequence.seen = max(row.sequence.seen, row.sequence.cached)
            if out is None or not row.logits:
                parts.append(None)
                continue
            parts.append(out[taken : taken + row.logits])
            taken += row.logits
            row.sequence.logits = host[taken - 1]
        return parts

    def forward(self, sequence: sequences.Sequence, ids: Sequence[int], *, logits: bool = True) -> None:
        """Put ids after one sequence's cached ones; with `logits`, leave the last row's in the sequence."""
        self.run([Row(sequence, ids, int(logits))])
