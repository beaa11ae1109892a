"""Answer and receipt: what an answer was and what it cost, each figure with its unit and how it was obtained.

These structs are the published schemas `mull.answer/1` and `mull.receipt/1`; until 1.0 fields are only added.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from engine.protocol.budget import Limit
from engine.protocol.trace import Trace

Unit = Literal["s", "B", "FLOP", "FLOP/s", "tok", "tok/s", "B/s", "J", "W", "1", "g", "money"]
Method = Literal["measured", "derived", "apportioned", "modelled", "unavailable"]
Finish = Literal["stop", "budget", "length", "cancelled", "error"]


class Quantity(Struct, frozen=True, kw_only=True):
    """A number in SI base units together with how it was obtained; `value` is null where it is unknown."""

    value: float | int | None
    unit: Unit
    method: Method
    source: str = ""
    low: float | None = None
    high: float | None = None
    reasons: tuple[str, ...] = ()


def measured(value: float | int, unit: Unit, source: str) -> Quantity:
    """A quantity read from a clock, a counter or the operating system."""
    return Quantity(value=value, unit=unit, method="measured", source=source)


def derived(value: float | int, unit: Unit, source: str) -> Quantity:
    """A quantity computed from measured counts by an exact formula."""
    return Quantity(value=value, unit=unit, method="derived", source=source)


def modelled(value: float, unit: Unit, source: str, low: float, high: float) -> Quantity:
    """A quantity estimated by a model, with the range in which it is expected."""
    return Quantity(value=value, unit=unit, method="modelled", source=source, low=low, high=high)


def unavailable(unit: Unit, *reasons: str) -> Quantity:
    """A quantity that is not known here, with the reasons."""
    return Quantity(value=None, unit=unit, method="unavailable", reasons=reasons)


class Environment(Struct, frozen=True, kw_only=True):
    """What the answer ran on."""

    mull: str
    model: str
    revision: str | None
    architecture: str
    device: str
    profile: str
    weight_dtype: str
    """As most are kept: a dtype, or how they are quantized, which `quantization` tells in full."""
    kv_dtype: str
    kernel_class: str
    threads: int
    torch: str
    transformers: str
    seed: int
    temperature: float
    top_p: float
    top_k: int
    quantization: str | None = None


class TokenCounts(Struct, frozen=True, kw_only=True):
    """Tokens by kind. Each forwarded token has exactly one kind; a cached token is not forwarded.

    `restored` of the cached ones came from disk, where an engine that has left had put them.
    `summary` are those read and written to make the summary of turns that do not fit into the context.
    `thinking` and `answer` are those of the kept answer as shown, `discarded` what other candidates thought,
    said and had put into their mouths. `draft_accepted` of those shown had been guessed, and do not count
    again. `draft_rejected` were guessed and forwarded in vain. `pending` of those shown (0 or 1) was sampled
    but never fed back, as at a length limit, so that the kinds from `prefilled` on, minus `pending`, equal
    the tokens that the runner counted by itself.
    """

    prompt: int = 0
    cached: int = 0
    restored: int = 0
    prefilled: int = 0
    thinking: int = 0
    answer: int = 0
    forced: int = 0
    probe: int = 0
    score: int = 0
    draft_accepted: int = 0
    draft_rejected: int = 0
    recomputed: int = 0
    discarded: int = 0
    summary: int = 0
    pending: int = 0

    def forwarded(self) -> int:
        """Tokens that went through the model: the sum over kinds."""
        kinds = (
            self.prefilled, self.thinking, self.answer, self.forced, self.probe, self.score,
            self.draft_rejected, self.recomputed, self.discarded, self.summary,
        )  # fmt: skip
        return sum(kinds) - self.pending


class Times(Struct, frozen=True, kw_only=True):
    """Seconds. `total` runs from acceptance by the engine and excludes `load`; `queue` is inside it."""

    load: Quantity
    queue: Quantity
    prefill: Quantity
    first_token: Quantity
    decode: Quantity
    total: Quantity
    per_token: Quantity
    itl_p50: Quantity
    itl_p95: Quantity
    saved_by_cache: Quantity = unavailable("s", "the receipt is older than this figure")
    """What the prompt's cached tokens would have taken."""


class FlopsByPhase(Struct, frozen=True, kw_only=True):
    """Floating point operations; forced tokens are counted with the phase that they close."""

    total: Quantity
    prefill: Quantity
    thinking: Quantity
    answer: Quantity
    discarded: Quantity


class Compute(Struct, frozen=True, kw_only=True):
    """Arithmetic done and bytes moved."""

    flops: FlopsByPhase
    flops_saved_by_cache: Quantity
    bytes: Quantity


class Speed(Struct, frozen=True, kw_only=True):
    """Rates, and how near they come to what the hardware could do."""

    prefill_tok_s: Quantity
    decode_tok_s: Quantity
    roofline_tok_s: Quantity
    mbu: Quantity
    mfu: Quantity


class Memory(Struct, frozen=True, kw_only=True):
    """Bytes in use at the end of the answer; `peak` is the process's highest so far."""

    weights: Quantity
    kv_used: Quantity
    kv_allocated: Quantity
    peak: Quantity
    free: Quantity


class Energy(Struct, frozen=True, kw_only=True):
    """Joules; `net` is without what the machine draws when idle."""

    total: Quantity
    net: Quantity
    prefill: Quantity
    thinking: Quantity
    answer: Quantity
    discarded: Quantity


class Cost(Struct, frozen=True, kw_only=True):
    """What the energy cost."""

    money: Quantity
    co2: Quantity


class Step(Struct, frozen=True, kw_only=True):
    """One call of a backend primitive: what it forwarded, in which phase and how long it took.

    "verify" are guesses forwarded in vain, and "recompute" is what had given way for want of memory.
    `busy_seconds` is the part of the time that was this candidate's where others were computed beside it.
    `candidate` is empty for what all of them share.
    """

    primitive: Literal["prefill", "extend", "force", "probe", "score", "verify", "recompute", "draft"]
    phase: Literal["prefill", "thinking", "answer"]
    candidate: str
    model: str
    tokens: int
    context: int
    seconds: float
    flops: int
    bytes: int
    busy_seconds: float | None = None
    """None in receipts older than this figure: all of it."""

    @property
    def busy(self) -> float:
        """Seconds that were this candidate's."""
        return self.seconds if self.busy_seconds is None else self.busy_seconds


class State(Struct, frozen=True, kw_only=True):
    """What happened on the way that a reader of the figures should know.

    `turns_left_out` are the messages that the context had no room for, the oldest first.
    """

    degradations: tuple[str, ...] = ()
    throttled: bool = False
    turns_left_out: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


class Budgeted(Struct, frozen=True, kw_only=True):
    """What became of a limit. `raised`: more was allowed while the answer ran."""

    limit: Limit
    spent: Quantity
    raised: bool = False


class Receipt(Struct, frozen=True, kw_only=True):
    """Everything that an answer consumed."""

    schema: Literal["mull.receipt/1"] = "mull.receipt/1"
    environment: Environment
    convention: str = "MAC = 2 FLOP, causal, matrix products only"
    tokens: TokenCounts
    time: Times
    compute: Compute
    speed: Speed
    memory: Memory
    energy: Energy
    cost: Cost
    steps: tuple[Step, ...]
    state: State
    budget: tuple[Budgeted, ...] = ()
    """What was spent of each limit; empty where there was none."""
    sequence: int = 0
    """Tokens that were sampled one after another: fewer than all where candidates ran side by side."""


class Confidence(Struct, frozen=True, kw_only=True):
    """How sure the model was of its tokens, thoughts included; in nats, higher is surer except for entropy.

    `mean` and `lowest` are of the negative mean log-probability of each token's 20 likeliest choices, over
    all tokens and over the least sure `window` of them.
    """

    tokens: int
    entropy: float
    self_certainty: float
    mean: float
    lowest: float
    window: int


class Candidate(Struct, frozen=True, kw_only=True):
    """One of the answers that were produced; exactly one is kept.

    `tokens` of it can be read, after `thinking_tokens` of thought. `score` is its verifier's.
    """

    id: str
    answer: str
    tokens: int
    kept: bool
    score: float | None = None
    thinking_tokens: int = 0
    confidence: Confidence | None = None
    """None where it was not asked for."""


class Vote(Struct, frozen=True, kw_only=True):
    """An answer that candidates gave, as it is compared; `weight` is their number or their scores' sum."""

    answer: str
    candidates: tuple[str, ...]
    weight: float


class Decision(Struct, frozen=True, kw_only=True):
    """How the kept answer was chosen among several; `votes` in descending order of weight.

    `margin` is what the chosen one was ahead by, as a share of all weight.
    """

    rule: str
    votes: tuple[Vote, ...]
    margin: float


class TreeNode(Struct, frozen=True, kw_only=True):
    """A step of a search: a piece of a thought, or the call of a tool.

    `parent` is empty where it goes on from the prompt. `score` is that of the thought up to here, in 0..1.
    Where the step ends in an answer, this is the candidate of the same id. `kept`: the answer is made of it.
    """

    id: str
    text: str
    tokens: int
    parent: str = ""
    kind: Literal["thought", "call"] = "thought"
    score: float | None = None
    visits: int = 1
    """How many samples were this step, or how many roll-outs went through it."""
    kept: bool = False


class Summary(Struct, frozen=True, kw_only=True):
    """What a model was told in place of turns that no longer fit; `turns` names them, the oldest first."""

    text: str
    turns: tuple[str, ...]


class Planned(Struct, frozen=True, kw_only=True):
    """What the planner chose before anything ran, and why. Its accuracy and tokens are what it expected.

    Half of such answers were expected to take `tokens_p50` at most, the prompt included, nine of ten
    `tokens_p90`.
    """

    method: str
    think: int | Literal["off", "max"]
    reason: str
    accuracy: float | None
    tokens_p50: float | None
    tokens_p90: float | None


class SettlingMark(Struct, frozen=True, kw_only=True):
    """What would have been answered after so many tokens of a thought, as it is compared; empty: nothing."""

    tokens: int
    answer: str


class Settling(Struct, frozen=True, kw_only=True):
    """Where in a thought of so many tokens the answer stopped changing, found by probes after the answer.

    After `settled` tokens, and at every later mark, it was what it is in the end; None, with the reason,
    where that cannot be told. `budget` is the thinking budget that lets a thought come so far; 0 is off.
    """

    thought: int
    settled: int | None
    reason: str = ""
    marks: tuple[SettlingMark, ...] = ()
    """In order, from the last one where the answer was another."""
    budget: int | None = None
    receipt: Receipt
    """What the probes cost; none of it is in the answer's own."""


class Answer(Struct, frozen=True, kw_only=True):
    """What `mull ask --json` prints."""

    schema: Literal["mull.answer/1"] = "mull.answer/1"
    model: str
    method: str
    answer: str
    thinking: str
    finish: Finish
    candidates: tuple[Candidate, ...] = field(default=())
    receipt: Receipt
    summary: Summary | None = None
    """What the prompt said in place of the turns that were left out."""
    decision: Decision | None = None
    """None where there was one candidate."""
    planned: Planned | None = None
    """None where the method was not left to the planner."""
    tree: tuple[TreeNode, ...] = ()
    """Of a search, its steps in the order in which they were first taken."""
    trace: Trace | None = None
    """How each token came about; None where it was not asked for."""
    settling: Settling | None = None
    """Where its thought settled; None where that was not looked for."""

    def thought(self, candidate: str) -> str | None:
        """A candidate's thought, by the tree; None where there is none."""
        nodes = {node.id: node for node in self.tree}
        parts: list[str] = []
        while (node := nodes.get(candidate)) is not None:
            parts.append(node.text)
            candidate = node.parent
        return "".join(reversed(parts)) if parts else None
