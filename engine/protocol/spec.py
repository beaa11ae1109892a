"""What is asked: the conversation, the model that is to answer, and how its tokens are chosen."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant"]
Phase = Literal["thinking", "answer"]
KV = Literal["model", "int8"]
"""How keys and values are kept: in the dtype that the model computes in, or rounded to int8."""


class Message(Struct, frozen=True):
    """One turn of the path through the conversation, as its author wrote it."""

    role: Role
    content: str
    thinking: str = ""
    id: str = ""
    """How a receipt names it; where it is empty, by its number in the request: `message 3`."""


class ModelSpec(Struct, frozen=True, kw_only=True):
    """Which model to run and how; what is None follows from the hardware profile."""

    model: str = "tiny"
    device: str | None = None
    profile: str | None = None
    context: int | None = None
    threads: int | None = None
    kv: KV = "model"
    quant: str | None = None
    """In what matrices are kept: none, int8, int4, fp8 or auto, with exceptions `,PATTERN=KIND`.

    None: as the checkpoint has them, or as the profile says.
    """
    deterministic: bool = False
    """Each token's bits are the same whatever is computed beside it; slower."""
    draft: str | None = None
    """Who guesses ahead: another model, `exit:N` for the model's first N layers, or nobody, `off`.

    None: what the text itself repeats is guessed, where that pays.
    """
    step_by_step: bool = False
    """A model that marks no thoughts is led into thinking in words, and from them to its answer."""


class Sampling(Struct, frozen=True, kw_only=True):
    """How tokens are chosen; None takes the value of the model's own generation settings.

    temperature 0 is greedy. top_k 0 and top_p 1 filter nothing.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
