"""How GGUF stores values: bytes in the file, and in memory once loaded. Knows neither torch nor gguf.

The figures are those of ggml-common.h and of `gguf.GGML_QUANT_SIZES`; reading them there would import numpy
and more for a list of files.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Type:
    """Values are stored in blocks: so many of them in so many bytes."""

    name: str
    block: int
    nbytes: int
    kept: float | None = None
    """Bytes per weight of a matrix that stays quantized in memory; None where it is made dense."""

    @property
    def plain(self) -> bool:
        """Values as they are, not in blocks with a scale."""
        return self.block == 1


TYPES: dict[int, Type] = {
    0: Type("F32", 1, 4),
    1: Type("F16", 1, 2),
    2: Type("Q4_0", 32, 18, kept=0.5 + 2 / 32),
    3: Type("Q4_1", 32, 20),
    6: Type("Q5_0", 32, 22, kept=1 + 2 / 32),
    7: Type("Q5_1", 32, 24),
    8: Type("Q8_0", 32, 34, kept=1 + 2 / 32),
    10: Type("Q2_K", 256, 84),
    11: Type("Q3_K", 256, 110),
    12: Type("Q4_K", 256, 144, kept=0.5 + 4 / 32),
    13: Type("Q5_K", 256, 176, kept=1 + 8 / 32),
    14: Type("Q6_K", 256, 210, kept=1 + 4 / 16),
    16: Type("IQ2_XXS", 256, 66),
    17: Type("IQ2_XS", 256, 74),
    18: Type("IQ3_XXS", 256, 98),
    19: Type("IQ1_S", 256, 50),
    20: Type("IQ4_NL", 32, 18),
    21: Type("IQ3_S", 256, 110),
    22: Type("IQ2_S", 256, 82),
    23: Type("IQ4_XS", 256, 136),
    28: Type("F64", 1, 8),
    29: Type("IQ1_M", 256, 56),
    30: Type("BF16", 1, 2),
    34: Type("TQ1_0", 256, 54),
    35: Type("TQ2_0", 256, 66),
    39: Type("MXFP4", 32, 17),
}
"""By the numbers that files have."""
