"""How fast a model runs: the request to measure it, the events while that goes on, and the report.

The report is the published schema `mull.speed/1`; until 1.0 fields are only added.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from engine.protocol.messages import Failed, Loaded, Loading, Queued
from engine.protocol.receipt import Environment, Quantity
from engine.protocol.spec import ModelSpec


class SpeedRequest(Struct, frozen=True, kw_only=True):
    """Prefill `batch` prompts of `prompt` random tokens, then generate `generate` tokens on each, greedily.

    That is done `runs` times after once for warming up, each time with other prompts. Nothing is cached and
    nothing is guessed ahead, for that depends on the text.
    """

    id: str
    spec: ModelSpec
    prompt: int = 512
    generate: int = 128
    batch: int = 1
    runs: int = 5


class Measuring(Struct, frozen=True, kw_only=True, tag="measuring"):
    """How far it is: `done` of `total` tokens over all runs, the warming up included."""

    stage: str
    done: int = 0
    total: int = 0


class SpeedRun(Struct, frozen=True, kw_only=True):
    """One run's seconds: of all prompts together, to the last row's first token, and of decoding."""

    prefill: Quantity
    first_token: Quantity
    decode: Quantity


class SpeedLimits(Struct, frozen=True, kw_only=True):
    """What the hardware gives at most: the denominators of MBU, MFU and roofline, measured where possible.

    The profile's figures stand beside them, for all the threads and units that it describes.
    """

    bandwidth: Quantity
    peak: Quantity
    profile_bandwidth: Quantity
    profile_peak: Quantity


class SpeedPhase(Struct, frozen=True, kw_only=True):
    """What a phase took of the hardware. FLOPs and bytes are those of one run, over all rows.

    `gap` is its time as a multiple of the least that the limits allow, and `bound` names what binds there.
    """

    flops: Quantity
    bytes: Quantity
    roofline_tok_s: Quantity
    gap: Quantity
    bound: Literal["compute", "bandwidth"] | None


class SpeedReport(Struct, frozen=True, kw_only=True):
    """What `mull speed --json` prints.

    Figures are medians over the runs with the least and the most in `low` and `high`; tokens per second are
    of all rows together unless they say otherwise. `mfu` is that of prefill, `mbu` that of decode, and
    `roofline_tok_s` the speed at which these limits would let it decode.
    """

    schema: Literal["mull.speed/1"] = "mull.speed/1"
    model: str
    environment: Environment
    convention: str = "MAC = 2 FLOP, causal, matrix products only"
    prompt: int
    generate: int
    batch: int
    prefill_tok_s: Quantity
    decode_tok_s: Quantity
    decode_tok_s_per_row: Quantity
    first_token: Quantity
    roofline_tok_s: Quantity
    mfu: Quantity
    mbu: Quantity
    prefill: SpeedPhase
    decode: SpeedPhase
    limits: SpeedLimits
    runs: tuple[SpeedRun, ...]
    notes: tuple[str, ...] = ()


class Measured(Struct, frozen=True, kw_only=True, tag="measured"):
    """It is done."""

    report: SpeedReport


SpeedEvent = Loading | Loaded | Queued | Measuring | Measured | Failed
