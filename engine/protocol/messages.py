"""Requests, controls and events: what an app asks of an engine, and what it hears while an answer runs."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from engine.protocol.budget import Limit
from engine.protocol.judging import AnswerType, Verifier
from engine.protocol.receipt import Answer, Budgeted, Summary, TreeNode, Vote
from engine.protocol.spec import Message, ModelSpec, Phase, Sampling

Think = int | Literal["off", "max"]
Overflow = Literal["stop", "drop", "summarize"]
"""What happens where a conversation outgrows the context: there is no answer, the oldest turns are left out,
or a summary stands for them.
"""


class AnswerRequest(Struct, frozen=True, kw_only=True):
    """Answer the last user message of this path. `max_tokens` caps the visible answer.

    `summary` is one that an earlier answer brought, to be used again where its turns are still left out.
    """

    id: str
    spec: ModelSpec
    messages: tuple[Message, ...]
    method: str | None = None
    think: Think = "max"
    least_thinking: int = 0
    """Tokens below which the model is not let end its thoughts, as far as the limits allow."""
    budget: tuple[Limit, ...] = ()
    """What the whole answer may spend; the tightest limit binds."""
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    confidence: bool = False
    """Say how sure the model was; takes a little time per token."""
    overflow: Overflow = "stop"
    summary: Summary | None = None
    answer_type: AnswerType | None = None
    """How answers are compared; None: by the type that they are found to have."""
    verifier: Verifier | None = None
    """Who chooses among several answers; None: whoever fits their type."""
    trace: bool = False
    """Record how each token came about, so that the answer can be replayed."""
    allow_python: bool = False
    """A method with tools may run the model's Python, shut in."""
    bulk: bool = False
    """One of many that nobody watches: only its end is told, more such run at once, and what its prompt was
    computed to is not kept."""


# Controls: what may be said to an answer while it runs.


class AnswerNow(Struct, frozen=True, tag="answer_now"):
    """End the thinking here and answer."""


class More(Struct, frozen=True, tag="more"):
    """Allow this many thinking tokens more (or fewer, when negative).

    A budget that could not pay for more of them is raised by what they cost.
    """

    tokens: int


class Cancel(Struct, frozen=True, tag="cancel"):
    """Stop; what has been said so far is kept."""


Control = AnswerNow | More | Cancel


# Events: what is heard while a model loads and an answer runs.


class ModelInfo(Struct, frozen=True, kw_only=True):
    """A loaded model, as an app shows it."""

    name: str
    path: str
    revision: str | None
    architecture: str
    parameters: int
    weight_bytes: int
    dtype: str
    """In which the model computes, and keeps what is not quantized."""
    kv_dtype: str
    """Of keys and values."""
    weights: str
    """In which most of the weights are kept: the dtype, or `int4`, or what the checkpoint's format says."""
    quantization: str | None = None
    """How matrices are quantized, who chose it, and how many in which way; None where they are not."""
    device: str
    profile: str
    simulated: bool = False
    """The profile was chosen and is not this machine: what follows from it is a prediction."""
    context: int
    longest_context: int = 0
    """Tokens of context with which the model could be loaded at most."""
    threads: int
    thinking_format: str | None
    """Name of the thinking format, or None where the model has none."""
    think_steps: tuple[int, ...]
    """Useful thinking caps in tokens, ascending: the dial's steps between off and max."""
    answer_reserve: int | None = None
    """Tokens that nearly all of its answers fit into; None where nobody has measured it."""
    fingerprint: str = ""
    """Names the configuration, the weights, what computes and the versions of that: where it is equal, the
    same request gives the same answer (to the bit only where the engine is deterministic)."""
    weights_digest: str = ""
    """Of parts of the weights' files, wherever these lie and whenever they were written."""


class Loading(Struct, frozen=True, kw_only=True, tag="loading"):
    """The engine is getting ready; `done` and `total` are bytes where they are known."""

    stage: str
    done: int | None = None
    total: int | None = None


class MethodInfo(Struct, frozen=True):
    """A way to answer that the engine knows. One that `thinks` needs a thinking budget.

    One with several `candidates` takes their number after a colon, and answers without thinking, too.
    """

    name: str
    thinks: bool
    candidates: int = 1
    searches: bool = False
    """Its candidates are thoughts that branch: it does not answer without thinking."""


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded"):
    """The model is in memory."""

    model: ModelInfo
    seconds: float
    methods: tuple[MethodInfo, ...] = ()


class Queued(Struct, frozen=True, kw_only=True, tag="queued"):
    """So many other answers have to end before this one begins. Said again when the number changes."""

    ahead: int


class Started(Struct, frozen=True, kw_only=True, tag="started"):
    """The answer was accepted and its prompt rendered."""

    answer_id: str
    model: str
    method: str
    prompt_tokens: int
    context: int
    thinking_limit: int
    """Tokens that each candidate may think, the forced end included; 0 when it does not think."""
    thinking_room: int = 0
    """The most that `thinking_limit` can be raised to, for the answer keeps a reserve of the context."""
    turns_left_out: tuple[str, ...] = ()
    """Messages that do not fit into the context and are not in the prompt, the oldest first."""
    summary: Summary | None = None
    """What the prompt says in their place."""
    candidates: int = 1
    """Answers of which one will be kept, at most so many."""


class Delta(Struct, frozen=True, kw_only=True, tag="delta"):
    """More text of a candidate; `tokens` is how many tokens it took. `forced` text was put into its mouth."""

    candidate: str
    phase: Phase
    text: str
    tokens: int
    forced: bool = False


class Metered(Struct, frozen=True, kw_only=True, tag="metered"):
    """A sample of the meter, about ten a second. Figures are this answer's, up to now."""

    seconds: float
    decode_tok_s: float | None
    """Sampled tokens per second of decoding over the last second."""
    prefill_tok_s: float | None
    cached_tokens: int = 0
    """Tokens of the prompt that were in the cache from earlier answers."""
    thinking_tokens: int
    """Of all candidates, as the answer's; the limit is each one's."""
    answer_tokens: int
    drafts_accepted: int = 0
    """Tokens that were guessed, and found right."""
    drafts_rejected: int = 0
    """Tokens that were guessed in vain."""
    thinking_limit: int
    budget: tuple[Budgeted, ...] = ()
    """What is spent of each limit."""
    context_used: int
    context_limit: int
    flops_prefill: int
    flops_thinking: int
    flops_answer: int
    next_token_flops: int
    """What one more token costs at this context."""
    next_token_bytes: int
    next_token_roofline_s: float | None
    weights_bytes: int
    kv_used_bytes: int
    kv_allocated_bytes: int
    process_bytes: int
    device_used_bytes: int | None
    """Memory in use on the accelerator, by anybody; None without one."""
    device_total_bytes: int | None


class Voted(Struct, frozen=True, kw_only=True, tag="voted"):
    """How candidates stand: `ended` of at most `wanted` have answered."""

    votes: tuple[Vote, ...]
    ended: int
    wanted: int


class Grew(Struct, frozen=True, tag="grew"):
    """A search has taken a step, or knows more of one that it has told of: its score, its visits."""

    node: TreeNode


class Notice(Struct, frozen=True, kw_only=True, tag="notice"):
    """Something that the person should know; the answer goes on."""

    code: str
    text: str


QUIET = frozenset({"cache"})
"""Codes of notices that cost nobody anything: the receipt has them, nobody need be told at once."""


class Finished(Struct, frozen=True, kw_only=True, tag="finished"):
    """The answer is complete, or was stopped: see its `finish`."""

    answer: Answer


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """There is no answer. `message` is one line with the cause, `hint` the next step.

    code: "usage" (the request contradicts itself), "model" (cannot be loaded), "fit" (does not fit),
    "overflow" (the conversation does not fit, but would with another `overflow` than "stop"),
    "engine" (the engine failed or went away), "cancelled" (stopped before it began).
    """

    code: Literal["usage", "model", "fit", "overflow", "engine", "cancelled"]
    message: str
    hint: str = ""


Event = Loading | Loaded | Queued | Started | Delta | Metered | Voted | Grew | Notice | Finished | Failed


class IgnoredFiles(Struct, frozen=True, kw_only=True):
    """Files of the prompt store that were not used, or could not be written, for one reason."""

    reason: str
    files: int


class PromptStoreState(Struct, frozen=True, kw_only=True):
    """What the engine does with prompts on disk. `ignored` is since the model was loaded."""

    folder: str
    budget_bytes: int
    ignored: tuple[IgnoredFiles, ...] = ()


class EngineStatus(Struct, frozen=True, kw_only=True):
    """The resident engine, as `mull ps` shows it."""

    pid: int
    build: str
    model: ModelInfo | None
    answering: int
    queued: int
    clients: int
    memory_bytes: int
    kv_idle_bytes: int = 0
    """Of it, keys and values kept from earlier answers, given up where others need them."""
    uptime_s: float
    keep_alive_s: float
    unloads_in_s: float | None
    """Seconds until it leaves for idleness; None while it is in use."""
    log: str
    prompt_store: PromptStoreState | None = None
    """None where no model is loaded, or no prompts are kept on disk."""
