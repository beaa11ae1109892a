"""The Backend: the primitives on which every method of thinking stands, whatever runs the model.

Knows no torch. A method awaits primitives (prefill, fork, extend, force, probe, score, cancel), many at once
where it likes; the backend decides when and in which batch they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from engine.protocol import Message, ModelInfo, Phase, Quantity
from profiles.catalogue import Profile
from profiles.shape import ModelShape

Kind = Literal[
    "prefilled", "thinking", "answer", "forced", "probe", "score", "draft_rejected", "recomputed", "draft"
]
"""What a forwarded token was for; each has one. `draft`: to guess what comes, see `Account.drafted`."""

Primitive = Literal["prefill", "extend", "force", "probe", "score", "draft"]

StopReason = Literal["stop", "limit", "ended", "cancelled", "context", "memory"]
"""Why an extension ended: a stop id, its lease, a request to end here, cancellation, the context's end, or no
memory for another token.
"""


class Tokenizer(Protocol):
    """Text to token ids and back, and the model's own chat template."""

    eos_ids: frozenset[int]
    chat_template: str
    has_template: bool
    """The chat template is the model's own."""

    def render(self, messages: Sequence[Message], **template_arguments: object) -> list[int]:
        """The prompt's ids by the chat template, with the generation prompt at its end."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens in it included, nothing added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; an unfinished UTF-8 sequence at its end shows as U+FFFD."""
        ...

    def sentence_ends(self) -> frozenset[int]:
        """Ids whose text ends a line or a sentence: where a thought may be wound down."""
        ...

    def ending(self, text: str) -> frozenset[int]:
        """Ids whose text ends with this."""
        ...

    def plain_ids(self) -> Sequence[int]:
        """All ids that are text and no special token."""
        ...


@dataclass(frozen=True)
class Sampler:
    """How a token is chosen from logits: temperature 0 is greedy; top_k 0 and top_p 1 filter nothing."""

    temperature: float
    top_p: float
    top_k: int
    seed: int


@dataclass
class Lease:
    """How far an extension may run. Its owner moves it from another thread while the extension runs."""

    limit: int
    """Tokens that may be sampled, from the lease's beginning on."""
    used: int = 0
    """Tokens sampled so far; written by the backend alone."""
    ended: bool = False
    """End after the token under way, keeping what there is ("answer now")."""
    cancelled: bool = False
    """Stop everything."""
    until_ns: int | None = None
    """Monotonic time from which no further token is begun, but the first of an extension."""


@dataclass(frozen=True)
class WindDown:
    """The soft end of a lease: from `soft` of its limit on, `token` grows likelier at each sentence's end
    (its logit rises linearly by up to `strength`); from `grace` on, a sentence's end ends the extension.
    """

    token: int
    sentence_ends: frozenset[int]
    soft: float = 0.8
    grace: float = 0.9
    strength: float = 10.0


@dataclass(frozen=True)
class Watch:
    """What the model's distribution said at one sampled token, before temperature and filters.

    `top` are the log-probabilities of its 20 likeliest ids, descending; `entropy` is in nats; `certainty` is
    the mean over the vocabulary of -log(V p) (self-certainty, arXiv:2502.18581); `chosen` is the
    log-probability of the token itself.
    """

    top: tuple[float, ...]
    entropy: float
    certainty: float
    chosen: float = 0.0

    @property
    def confidence(self) -> float:
        """The negative mean of the top log-probabilities (DeepConf, arXiv:2508.15260)."""
        return -sum(self.top) / len(self.top)


@dataclass(frozen=True)
class Extension:
    """What an extension sampled. An id that ended it is in `stop_id` and, where it was kept, in `ids`.

    `watched` has an entry for each sampled token, one dropped as a stop included, where that was asked for.
    """

    ids: tuple[int, ...]
    reason: StopReason
    stop_id: int | None = None
    watched: tuple[Watch, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What a node would go on with, were its end forced: looked at and thrown away."""

    ids: tuple[int, ...]
    watched: tuple[Watch, ...]


@dataclass(frozen=True)
class Forwarded:
    """Tokens that one forward put through the model, all of one kind; the runner's account for the ledger.

    A forward may serve several nodes: `share` is the part of its tokens that was this node's. Where a node's
    tokens were of two kinds, `part` is this entry's part of them, and `seconds` are those of the part.
    """

    primitive: Primitive
    kind: Kind
    phase: Literal["prefill", "thinking", "answer"]
    tokens: int
    context: int
    """Tokens in the cache before the first of these."""
    logits_rows: int
    seconds: float
    share: float = 1.0
    part: float = 1.0
    accepted: int = 0
    """Of the tokens, those that were guessed and found right."""


EVICTED = "what was kept of earlier answers gave way"
"""The first thing done for want of memory, and the one that costs nobody anything."""


@dataclass
class Account:
    """What a node's work came to: filled by the backend, read for the receipt."""

    forwarded: list[Forwarded] = field(default_factory=list)
    sampling_s: dict[str, float] = field(default_factory=lambda: {"thinking": 0.0, "answer": 0.0})
    """Seconds from logits to tokens, beside the forwards."""
    cached: int = 0
    """Tokens that the node began with: in the cache from earlier answers, and not forwarded."""
    restored: int = 0
    """Of the cached tokens, those that came from disk."""
    sampled_ns: list[int] = field(default_factory=list)
    """Monotonic time at which each token was sampled."""
    drafts_accepted: int = 0
    """Tokens that were guessed, and found right."""
    drafts_rejected: int = 0
    """Tokens that were guessed and forwarded in vain."""
    drafted: list[Forwarded] = field(default_factory=list)
    """What a draft model forwarded to guess: none of it is this model's."""
    degradations: list[str] = field(default_factory=list)
    """What was done for want of memory, in the order of events."""


@dataclass
class Origin:
    """How a node's ids from `begin` to `end` came about: sampled or, where `sampler` is None, forced."""

    phase: Phase
    begin: int
    end: int
    sampler: Sampler | None = None
    banned: frozenset[int] = frozenset()
    raised: list[tuple[int, int, float]] = field(default_factory=list)
    """Positions, ids that were made likelier there, and by how much."""
    dropped: int | None = None
    """An id that was sampled at `end`, ended it and was not kept."""
    logits: float = 0.0
    """The sum of the sampled ids' logits."""


@dataclass(frozen=True)
class Choice:
    """What chose an id at a position: all that it followed from, besides the logits."""

    position: int
    id: int
    sampler: Sampler
    path: int
    banned: frozenset[int] = frozenset()
    raised: tuple[int, float] | None = None


@dataclass(frozen=True)
class Rechosen:
    """What comes out of a choice now.

    `logit` is that of the id chosen then. `margin` is by how much two logits would have to differ from what
    they are for it to be chosen again: 0 where it is, infinite where it is banned.
    """

    id: int
    logit: float
    margin: float


class Node(Protocol):
    """A sequence in the backend: its ids, how they came about, and an account of what was spent on it."""

    ids: list[int]
    account: Account
    origins: list[Origin]
    """In order; they are of the ids from `begun` on."""
    path: int
    """Names it in the randomness."""

    @property
    def parent(self) -> Node | None:
        """What it was forked from, with its first `begun` ids; of those, a node without one was prefilled."""
        ...

    @property
    def begun(self) -> int: ...

    @property
    def pending(self) -> Kind | None:
        """The kind of the last id where it was sampled but not yet put through the model, else None."""
        ...


@dataclass(frozen=True)
class DraftInfo:
    """A model that guesses what another will say."""

    name: str
    shape: ModelShape


@dataclass(frozen=True)
class MemoryUse:
    """Bytes in use now; None where it cannot be told."""

    weights: int
    kv_used: int
    kv_allocated: int
    kv_idle: int
    """Kept from earlier answers, and given up where others need it."""
    process: int
    process_peak: int
    free: int
    device_used: int | None
    device_total: int | None


@dataclass(frozen=True)
class Limits:
    """What the hardware gives at most, measured on the spot with the threads that the model runs on."""

    bandwidth: Quantity
    """B/s read from memory."""
    peak: Quantity
    """FLOP/s of matrix products in the model's dtype."""
    cache_bytes: int | None
    """Of the last-level cache; None where it cannot be told."""


class Drawn(NamedTuple):
    """A reading of an energy counter: joules since some moment, as they stood at `at_ns` (monotonic)."""

    joules: float
    at_ns: int


class EnergyCounter(Protocol):
    """Counts what the device draws; it may lag behind."""

    def read(self) -> Drawn:
        """The newest reading that there is."""
        ...


class OutOfContext(Exception):
    """The ids do not fit into the context that the backend was loaded with."""

    def __init__(self, needed: int, context: int) -> None:
        super().__init__(f"{needed} tokens do not fit into the context of {context}")
        self.needed = needed
        self.context = context


class Backend(Protocol):
    """Runs one model. All callbacks arrive on the event loop's thread.

    A node is prefilled, extended or forced by one at a time, and may be forked, probed and scored meanwhile.
    What is asked of a node at work, or of one that was cancelled, raises ValueError.
    """

    info: ModelInfo
    shape: ModelShape
    profile: Profile
    tokenizer: Tokenizer
    defaults: Sampler
    """The model's own generation settings, with seed 0."""
    kernel_class: str
    """Names the arithmetic: equal classes give equal bits."""
    versions: Mapping[str, str]
    """Versions of the libraries that compute: torch and transformers."""
    draft: DraftInfo | None
    """Who guesses ahead, besides what is looked up in the text itself."""
    energy: EnergyCounter | None
    """None where the device has no counter that can be read."""

    async def prefill(
        self, ids: Sequence[int], lease: Lease, on_progress: Callable[[int, int], None] | None = None
    ) -> Node:
        """A new node with the prompt in its cache: what is there already, the rest forwarded, the last id
        always. `on_progress(done, cached)` counts tokens; those done begin with the cached ones.

        A cancelled lease ends it between chunks, with what has been forwarded in the node's account.
        Raises OutOfContext.
        """
        ...

    async def extend(
        self,
        node: Node,
        phase: Phase,
        lease: Lease,
        sampler: Sampler,
        *,
        stop: frozenset[int] = frozenset(),
        keep: frozenset[int] = frozenset(),
        banned: frozenset[int] = frozenset(),
        wind_down: WindDown | None = None,
        watch: bool = False,
        guess: bool = True,
        live: bool = True,
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
    ) -> Extension:
        """Sample onto the node until a stop id, the lease or the context ends it.

        An id in `stop` ends it and is dropped; one in `keep` ends it and stays on the node, pending. The
        sampled tokens have the phase's kind. `on_tokens` gets them in order, in chunks, before this
        returns; an id that ended it is not among them; unless `live`, all but the first come at the end.
        Without `guess`, each token has a forward of its own.
        """
        ...

    async def force(self, node: Node, phase: Phase, ids: Sequence[int]) -> None:
        """Put ids into the node as if they had been sampled; their kind is `forced`. Raises OutOfContext."""
        ...

    async def fork(self, node: Node, count: int) -> list[Node]:
        """Nodes that go on from where this one is, also while it is being extended; their pages are shared.

        Each samples on a path of its own: its randomness follows from the node's path and the number of the
        fork, whenever it is made. Accounts begin empty. Raises ValueError for fewer than one.
        """
        ...

    async def probe(
        self,
        node: Node,
        ids: Sequence[int],
        limit: int,
        sampler: Sampler,
        *,
        phase: Phase = "thinking",
        stop: frozenset[int] = frozenset(),
    ) -> Probe | None:
        """Force ids on a fork of the node, sample up to `limit` tokens, and throw the fork away.

        The tokens are charged to the node's account as `probe`. None where memory was short: probes are what
        goes first. Raises OutOfContext.
        """
        ...

    async def score(self, node: Node, ids: Sequence[int], phase: Phase = "answer") -> list[float]:
        """The log-probability of each id, were the node to go on with them; the node stays as it is.

        Charged to the node's account as `score`. Raises OutOfContext, and MemoryError where memory is short.
        """
        ...

    async def rechoose(
        self,
        prompt: Sequence[int],
        paths: Sequence[tuple[Sequence[int], Sequence[Choice]]],
        lease: Lease,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Rechosen]]:
        """Make choices again, on several paths: each the ids that follow the prompt, and the choices among
        them in the order of their positions, which count from the prompt's beginning.

        All is forwarded, nothing is taken from the cache and nothing kept. `on_progress` gets the tokens done
        since it was last called. A cancelled lease ends it early. Raises OutOfContext and MemoryError.
        """
        ...

    async def cancel(self, node: Node, *, forget: bool = False, store: bool = True) -> None:
        """Release the node's pages; idempotent. The account stays readable.

        What they hold is found again by prompts that begin alike, unless it is to be forgotten; after a
        restart, too, of what is worth to `store`.
        """
        ...

    def memory(self) -> MemoryUse:
        """Bytes in use now."""
        ...

    async def cached(self, ids: Sequence[int]) -> int:
        """How many tokens of a prompt need not be forwarded, as things are: of those in memory."""
        ...

    def capacity(self, tokens: int) -> int:
        """How many nodes of so many tokens the pages hold at once."""
        ...

    async def measure_limits(self) -> Limits:
        """Measure memory and arithmetic, between two forwards; takes seconds."""
        ...

    def close(self) -> None:
        """Unload the model and release its memory."""
        ...
