"""What a format of quantized checkpoints has to say to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from engine.load.schemes import Settings
from engine.nn.quantized import Quantized


class Scheme(Settings, Protocol):
    """How a checkpoint keeps its quantized matrices: which tensors make one up, and what they mean."""

    @property
    def deciding(self) -> frozenset[str]:
        """Small parts whose values say what the others become: read even where shapes alone are wanted."""
        ...

    def read(self, parts: Mapping[str, torch.Tensor]) -> Quantized | torch.Tensor:
        """The matrix [out, in] of its tensors, by the last parts of their names.

        A tensor where it can be kept in no `Quantized`. Raises ValueError where they do not make one. Of
        parts on the meta device, but for the `deciding` ones, the outline of what it would be.
        """
        ...
