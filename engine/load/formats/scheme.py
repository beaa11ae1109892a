"""What a format of quantized checkpoints has to say to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from engine.nn.quantized import Quantized


class Scheme(Protocol):
    """How a checkpoint keeps its quantized matrices: which tensors make one up, and what they mean."""

    @property
    def name(self) -> str:
        """As a person knows it, with what was chosen: `gptq 4-bit g128`."""
        ...

    @property
    def mark(self) -> str:
        """The last part of the name of a tensor that only a quantized matrix has: `qweight`."""
        ...

    @property
    def parts(self) -> frozenset[str]:
        """The last parts of the names of all its tensors; what a matrix may lack is among them."""
        ...

    def read(self, matrix: str, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        """The matrix [out, in] of its tensors, by the last parts of their names; `matrix` is for messages.

        A tensor where it can be kept in no `Quantized`. Raises ModelError where they do not make one.
        """
        ...
