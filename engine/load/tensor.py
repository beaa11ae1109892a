"""A tensor out of a safetensors file, read and not mapped: its pages go with it, and no more than it is held.

What is quantized as it is read would else leave the whole file in the process's memory.
"""

from __future__ import annotations

import numpy as np
import torch

from engine.load.errors import ModelError
from engine.load.weights import Stored

_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool, "U8": torch.uint8},
    **{"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
}


DTYPES = {dtype: name for name, dtype in _DTYPES.items()}
"""By which names safetensors has them."""


def outline(stored: Stored) -> torch.Tensor:
    """The tensor without its values, on the meta device. Raises ModelError for an unknown dtype."""
    return torch.empty(stored.shape, dtype=_dtype(stored), device="meta")


def read_tensor(stored: Stored) -> torch.Tensor:
    """The tensor, in its own dtype. Raises ModelError for an unknown dtype and a file that is cut short."""
    dtype = _dtype(stored)
    data = np.empty(stored.nbytes, np.uint8)
    view = memoryview(data.data)
    with stored.file.open("rb", buffering=0) as file:
        file.seek(stored.offset)
        done = 0
        while done < stored.nbytes:
            count = file.readinto(view[done:])
            if not count:
                raise ModelError(f"{stored.file} is truncated", "download the file again")
            done += count
    return torch.from_numpy(data).view(dtype).view(stored.shape)


def _dtype(stored: Stored) -> torch.dtype:
    if (dtype := _DTYPES.get(stored.dtype)) is None:
        raise ModelError(f"{stored.file} has a tensor in {stored.dtype[:40]}, which is not read")
    return dtype
