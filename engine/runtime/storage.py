"""How keys and values lie in memory: as computed, or in int8. Knows slots, not who holds them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional

from engine.nn.kernels.paged import PagedAttention, paged_attention
from engine.protocol import KV
from engine.runtime.prefixes import PAGE

SCALE_BYTES = 4


class Storage(Protocol):
    """Keys and values of all layers, a slot per token; `memory` is [2, layers, kv_heads, pages, PAGE, width].

    A page of `memory` is all that there is of its tokens: whoever copies it needs to know no more.
    """

    memory: torch.Tensor
    lossless: bool
    """What is read is what was written, to the bit."""
    attention: PagedAttention | None
    """What attends over the memory as it lies; None where it has to be read."""

    @staticmethod
    def vector_bytes(head_dim: int, dtype: torch.dtype) -> int:
        """Bytes of one head's key or value, scale included, of a model that computes in `dtype`."""
        ...

    def write_run(self, layer: int, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values, [kv_heads, length, head_dim], into a run of slots."""
        ...

    def write_slots(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put them into the slots given, [length]."""
        ...

    def read_run(self, layer: int, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a run of slots, [1, kv_heads, length, head_dim]."""
        ...

    def read_pages(self, layer: int, pages: torch.Tensor, seen: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of `seen`, counted over the slots of the pages in the order given."""
        ...


class PlainStorage:
    """In the dtype that the model computes in."""

    lossless = True

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, pages: int, dtype: torch.dtype, device: str
    ) -> None:
        self.memory = torch.empty((2, layers, kv_heads, pages, PAGE, head_dim), dtype=dtype, device=device)
        self._keys, self._values = (list(half.flatten(2, 3)) for half in self.memory)
        self.attention = paged_attention(self.memory)

    @staticmethod
    def vector_bytes(head_dim: int, dtype: torch.dtype) -> int:
        return head_dim * dtype.itemsize

    def write_run(self, layer: int, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        length = keys.shape[1]
        self._keys[layer].narrow(1, slot, length).copy_(keys)
        self._values[layer].narrow(1, slot, length).copy_(values)

    def write_slots(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._keys[layer].index_copy_(1, slots, keys)
        self._values[layer].index_copy_(1, slots, values)

    def read_run(self, layer: int, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the memory."""
        keys, values = self._keys[layer], self._values[layer]
        return keys.narrow(1, slot, length)[None], values.narrow(1, slot, length)[None]

    def read_pages(self, layer: int, pages: torch.Tensor, seen: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            _gather(self._keys[layer], pages)[None, :, seen],
            _gather(self._values[layer], pages)[None, :, seen],
        )


class Int8Storage:
    """Each token's vector of a head in int8, symmetric, followed by the four bytes of its float32 scale.

    A scale per token and head, for keys and for values, fixed when the token is written: a token's bytes
    follow from its own keys and values alone, whatever lies beside it. A scale per page would change as the
    page fills.
    """

    lossless = False
    attention: PagedAttention | None = None

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, pages: int, dtype: torch.dtype, device: str
    ) -> None:
        """`dtype` is the one that is written and read."""
        self._dtype = dtype
        self._head_dim = head_dim
        width = self.vector_bytes(head_dim, dtype)
        self._scale_at = width - SCALE_BYTES
        self.memory = torch.empty((2, layers, kv_heads, pages, PAGE, width), dtype=torch.int8, device=device)
        # [2, kv_heads, slots, width] each, keys and values together: half as many calls
        self._layers = list(self.memory.transpose(0, 1).flatten(3, 4))

    @staticmethod
    def vector_bytes(head_dim: int, dtype: torch.dtype) -> int:
        return -(-head_dim // SCALE_BYTES) * SCALE_BYTES + SCALE_BYTES  # where a float32 may lie

    def write_run(self, layer: int, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._layers[layer].narrow(2, slot, keys.shape[1]).copy_(self._quantized(keys, values))

    def write_slots(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._layers[layer].index_copy_(2, slots, self._quantized(keys, values))

    def read_run(self, layer: int, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._dequantized(self._layers[layer].narrow(2, slot, length))

    def read_pages(self, layer: int, pages: torch.Tensor, seen: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return self._dequantized(_gather(self._layers[layer], pages)[:, :, seen])

    def _quantized(self, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Codes and scales, [2, kv_heads, length, width]: to the nearest of 255 steps."""
        both = torch.stack((keys, values)).float()
        scales = torch.linalg.vector_norm(both, torch.inf, -1, keepdim=True).div_(127)
        # whatever the code: of zeros the scale is 0, of what is not finite it is not, and so is what is read
        codes = both.div_(scales).round_().to(torch.int8)
        if gap := self._scale_at - self._head_dim:
            codes = functional.pad(codes, (0, gap))
        return torch.cat([codes, scales.view(torch.int8)], -1)

    def _dequantized(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[2, kv_heads, length, width] back to keys and values, [1, kv_heads, length, head_dim]."""
        scales = rows[..., self._scale_at :].view(torch.float32)
        both = rows[..., : self._head_dim].to(torch.float32).mul_(scales).to(self._dtype)
        return both[:1], both[1:]


StorageKind = type[PlainStorage] | type[Int8Storage]
KINDS: dict[KV, StorageKind] = {"model": PlainStorage, "int8": Int8Storage}


def _gather(memory: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Of [..., slots, width], the pages' slots in the order given."""
    paged = memory.unflatten(-2, (-1, PAGE))
    return paged.index_select(-3, pages).flatten(-3, -2)
