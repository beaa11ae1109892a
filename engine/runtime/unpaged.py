"""Models that cannot page, on transformers' own cache: one sequence at a time, forked by copy.

Latent attention and convolutions keep other things than keys and values, some of which cannot be taken back:
nothing is guessed ahead, and nothing is kept when a sequence ends. What was pre-empted is computed again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import torch

from engine.runtime.pages import PAGE
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence as TokenSequence
from engine.runtime.step import Interrupted


class CachePool:
    """Implements `Pool`: a table has one entry, the number of the sequence's cache.

    Memory is counted in pages of tokens, as many as there are, and a sequence's state in as many of them as
    it is large: so that somebody gives way before the memory is at its end.
    """

    idle = 0
    idle_bytes = 0

    def __init__(self, pages: int, page_bytes: float, state_bytes: int) -> None:
        self.pages = pages
        self._state_pages = int(-(-state_bytes // page_bytes))
        self._held: dict[int, int] = {}
        """Pages, by cache."""
        self._caches: dict[int, Any] = {}
        """Those that have seen a token."""
        self._numbers = count()
        self.used_bytes = 0

    @property
    def available(self) -> int:
        return self.pages - sum(self._held.values())

    @property
    def allocated_bytes(self) -> int:
        return self.used_bytes

    def capacity(self, tokens: int) -> int:
        return self.pages // (-(-tokens // PAGE) + self._state_pages)

    def match(self, ids: Sequence[int]) -> tuple[list[int], int]:
        return [], 0

    def grow(self, table: list[int], pages: int) -> None:
        held = self._held[table[0]] if table else 0
        wanted = max(held, pages + self._state_pages)
        if wanted - held > self.available:
            raise MemoryError(f"{wanted - held} pages are needed and {self.available} can be had")
        if not table:
            table.append(next(self._numbers))
        self._held[table[0]] = wanted

    def fork(self, table: Sequence[int], tokens: int) -> list[int]:
        if not tokens:
            return []
        held = self._held[table[0]]
        if held > self.available:
            raise MemoryError(f"{held} pages are needed and {self.available} can be had")
        number = next(self._numbers)
        with torch.inference_mode():
            self.put(number, copy.deepcopy(self._caches[table[0]]))
        self._held[number] = held
        return [number]

    def shareable(self, tokens: int) -> int:
        return 0

    def publish(self, table: Sequence[int], ids: Sequence[int]) -> None:
        """Nobody else can use a cache."""

    def release(self, table: Sequence[int], ids: Sequence[int] = ()) -> None:
        for number in table:
            if number not in self._held:
                raise ValueError("a cache was released that was not held")
            del self._held[number]
            self.used_bytes -= _bytes(self._caches.pop(number, None))

    def forget(self, table: Iterable[int]) -> None:
        """Nothing is found."""

    def take(self, number: int) -> Any:
        """A cache out of the pool, to be put back when it has changed; None where it has seen nothing."""
        cache = self._caches.pop(number, None)
        self.used_bytes -= _bytes(cache)
        return cache

    def put(self, number: int, cache: Any) -> None:
        """A cache that has seen all of its sequence's tokens."""
        self._caches[number] = cache
        self.used_bytes += _bytes(cache)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless the books agree with the tables and with the caches."""
        numbers = [number for table in tables for number in table]
        if sorted(numbers) != sorted(self._held) or not self._caches.keys() <= self._held.keys():
            raise AssertionError("caches are held by nobody, or by several")
        if self.used_bytes != sum(_bytes(cache) for cache in self._caches.values()):
            raise AssertionError("the caches are not as large as it says")
        if self.available < 0:
            raise AssertionError("more is held than there is")


class CacheRunner:
    """Implements `AnyRunner` by transformers' own forward over its own cache."""

    rows = 1

    def __init__(self, model: Any, pool: CachePool) -> None:
        self.pool = pool
        self.forwarded_tokens = 0
        self._model = model
        self._interrupted: Callable[[], bool] | None = None
        for layer in model.base_model.layers:
            layer.register_forward_pre_hook(self._between_layers)

    @torch.inference_mode()
    def run(
        self, rows: Sequence[Row], interrupted: Callable[[], bool] | None = None
    ) -> list[torch.Tensor | None]:
        """A forward for each row; see `Runner.run`. Where it raises, the row's sequence is pre-empted."""
        return [self._run(row, interrupted) for row in rows]

    def forward(self, sequence: TokenSequence, ids: Sequence[int], *, logits: bool = True) -> None:
        """Put ids after one sequence's cached ones; with `logits`, leave the last row's in the sequence."""
        self.run([Row(sequence, ids, int(logits))])

    def _run(self, row: Row, interrupted: Callable[[], bool] | None) -> torch.Tensor | None:
        from transformers import DynamicCache

        sequence = row.sequence
        sequence.reserve(sequence.cached + len(row.ids))
        [number] = sequence.table
        cache = self.pool.take(number) or DynamicCache(config=self._model.config)
        self._interrupted = interrupted
        try:
            out = self._forward(row.ids, sequence.cached, cache, row.logits)
        except BaseException:  # some layers have seen the ids, and others not
            sequence.preempt()
            raise
        finally:
            self._interrupted = None
        self.pool.put(number, cache)
        self.forwarded_tokens += len(row.ids)
        sequence.cached += len(row.ids)
        sequence.seen = max(sequence.seen, sequence.cached)
        if out is not None:
            sequence.logits = out[-1].cpu().numpy()
        return out

    def _forward(self, ids: Sequence[int], start: int, cache: Any, logits: int) -> torch.Tensor | None:
        device = self._model.device
        inputs = {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.arange(start, start + len(ids), device=device)[None],
            "past_key_values": cache,
            "use_cache": True,
        }
        if not logits:
            self._model.base_model(**inputs)
            return None
        out: torch.Tensor = self._model(**inputs, logits_to_keep=logits).logits[0].float()
        return out

    def _between_layers(self, *_: object) -> None:
        if self._interrupted is not None and self._interrupted():
            raise Interrupted


def _bytes(cache: Any) -> int:
    """What a cache's tensors take."""
    found = 0
    for layer in cache.layers if cache is not None else ():
        for value in vars(layer).values():
            tensors = value.values() if isinstance(value, dict) else (value,)
            found += sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
    return found
