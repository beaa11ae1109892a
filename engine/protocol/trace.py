"""What a recorded answer is recomputed from: how each of its tokens came about. See `mull replay`."""

from __future__ import annotations

from msgspec import Struct

from engine.protocol.spec import Message, ModelSpec, Phase, Sampling


class Raised(Struct, frozen=True):
    """An id that was made likelier at one position, as a thought was wound down."""

    position: int
    id: int
    amount: float


class Passage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ids that came about in one way: sampled by `sampling`, or put there where that is None.

    `ids` are decimal numbers with spaces between. One that was sampled last and not kept, for it ended the
    passage, is in `dropped`. `logits` is the sum of the sampled ids' logits, by which weights that have
    changed are told even where they choose the same.
    """

    phase: Phase
    ids: str
    sampling: Sampling | None = None
    banned: tuple[int, ...] = ()
    raised: tuple[Raised, ...] = ()
    dropped: int | None = None
    logits: float = 0.0


class TracedPath(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sequence of ids. It begins with `prompt`, or with the first `begin` ids of the path before it with
    the number `parent`; `noise` names it in the randomness, 16 hexadecimal digits.
    """

    candidate: str
    noise: str
    prompt: str = ""
    parent: int | None = None
    begin: int = 0
    passages: tuple[Passage, ...] = ()


class Trace(Struct, frozen=True, kw_only=True):
    """All paths of an answer, and what they were computed with.

    `weights` is a digest of parts of the model's files, wherever these lie; `template` of its chat template.
    `messages` are the conversation as it was asked; empty in a session that has them as its turns.
    """

    spec: ModelSpec
    fingerprint: str
    weights: str
    template: str
    messages: tuple[Message, ...]
    paths: tuple[TracedPath, ...]


def packed(ids: tuple[int, ...] | list[int]) -> str:
    """Ids as a trace has them."""
    return " ".join(map(str, ids))


def unpacked(text: str) -> list[int]:
    """The ids of a trace. Raises ValueError."""
    return [int(word) for word in text.split()]
