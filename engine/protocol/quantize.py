"""Making and judging quantized checkpoints: the request, the events while it runs, and the result.

The result is the published schema `mull.quantization/1`; until 1.0 fields are only added.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from engine.protocol.messages import Failed
from engine.protocol.receipt import Quantity


class Calibration(Struct, frozen=True, kw_only=True):
    """What GPTQ is shown: at most `samples` texts of at most `length` tokens.

    They come from `file`, plain text or JSON Lines with `text`; without one the model writes them.
    """

    file: str | None = None
    samples: int = 128
    length: int = 512


class Making(Struct, frozen=True, kw_only=True):
    """A checkpoint to write into a folder that is not there yet.

    int4 and int8 are rounded without data, as compressed-tensors; gptq has `bits`, `group` inputs to a scale
    (-1: all), and with `descending` the inputs that matter most are quantized first.
    """

    to: Literal["int4", "int8", "gptq"]
    out: str
    bits: Literal[4, 8] = 4
    group: Literal[-1, 32, 64, 128] = 128
    descending: bool = False
    calibration: Calibration = Calibration()


class QuantizeRequest(Struct, frozen=True, kw_only=True):
    """Write a checkpoint, or report on others, or both; `others` are models or int8, int4, fp8."""

    model: str
    making: Making | None = None
    report: bool = False
    others: tuple[str, ...] = ()
    problems: int = 120
    device: str | None = None
    threads: int | None = None


class Written(Struct, frozen=True, kw_only=True):
    """A checkpoint that was written: bytes of its weight files, and what became of the matrices."""

    path: str
    format: str
    bytes: int
    bytes_before: int
    matrices: int
    calibration: str | None = None
    """Which texts GPTQ was shown, where it was."""
    rounded: int = 0
    """Of the matrices, those of experts that GPTQ was shown too few tokens of: rounded without any."""


class QualityRow(Struct, frozen=True, kw_only=True):
    """A model beside the original: what it takes, and how near it comes.

    `kl` is the mean divergence from the original's next-token distribution in nats per token, with its
    standard error over problems; `agreement` the share of tokens whose likeliest is the same; `accuracy` the
    share of problems solved.
    """

    name: str
    bytes: Quantity
    bytes_per_weight: Quantity
    kl: Quantity
    kl_error: Quantity
    agreement: Quantity
    accuracy: Quantity


class Quality(Struct, frozen=True, kw_only=True):
    """How models compare on held-out problems, on the texts that the original writes greedily for them."""

    problems: int
    tokens: int
    dtype: str
    """In which they were computed."""
    rows: tuple[QualityRow, ...]


class QuantizationResult(Struct, frozen=True, kw_only=True):
    """What `mull quantize --json` prints."""

    schema: Literal["mull.quantization/1"] = "mull.quantization/1"
    model: str
    written: Written | None = None
    quality: Quality | None = None


class Progress(Struct, frozen=True, kw_only=True, tag="progress"):
    """What is being done: `done` of `total` matrices, layers, texts or bytes, where that is known."""

    stage: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None


class Completed(Struct, frozen=True, kw_only=True, tag="completed"):
    """It is done."""

    result: QuantizationResult


QuantizeEvent = Progress | Completed | Failed

encode_line = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(QuantizeEvent).decode
decode_request = msgspec.json.Decoder(QuantizeRequest).decode
