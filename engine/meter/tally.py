"""What an answer has consumed: a live tally while it streams, and the exact steps of its account."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from engine.backend import Account, Backend, Forwarded
from engine.protocol import Metered, Phase
from engine.protocol.receipt import Step
from profiles.costs import (
    decode_bytes,
    decode_flops,
    prefill_bytes,
    prefill_flops,
    roofline_seconds,
    span_flops,
)

RATE_WINDOW_S = 1.0
"""Seconds over which the live rate is taken: long enough to be readable, short enough to show a stall."""


@dataclass
class Tally:
    """The live figures of one answer. All of it is the estimate that streams; the receipt uses `steps`."""

    backend: Backend
    accepted_ns: int
    prompt_tokens: int
    prefilled: int = 0
    """Tokens of the prompt that are in the cache, `cached` of them from earlier answers."""
    cached: int = 0
    prefill_began_ns: int = 0
    prefill_s: float = 0.0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    forced_tokens: int = 0
    flops: dict[str, int] = field(default_factory=lambda: {"prefill": 0, "thinking": 0, "answer": 0})
    account: Account | None = None
    """Of the node, as soon as there is one."""
    branches: list[Tally] = field(default_factory=list)
    """Of candidates that go on from here; each has its own tokens, and none of what was before."""
    _recent: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def context_used(self) -> int:
        """Tokens in the context of the candidate that has most."""
        own = self.prefilled + self.thinking_tokens + self.answer_tokens + self.forced_tokens
        return max((branch.context_used for branch in self.branches), default=own)

    def branch(self, account: Account) -> Tally:
        """For a candidate that goes on from here."""
        branch = Tally(
            self.backend, self.accepted_ns, self.prompt_tokens, prefilled=self.prefilled, account=account
        )
        self.branches.append(branch)
        return branch

    def prefill_progressed(self, done: int, cached: int) -> None:
        if not self.prefilled:
            self.cached = self.prefilled = cached
        new, rows = done - self.prefilled, int(done == self.prompt_tokens)
        self.flops["prefill"] += prefill_flops(
            self.backend.shape, new, self.prefilled, logits_rows=rows
        ).total
        self.prefilled = done
        self.prefill_s = (time.monotonic_ns() - self.prefill_began_ns) / 1e9

    def sampled(self, phase: Phase, tokens: int) -> None:
        self.flops[phase] += span_flops(self.backend.shape, tokens, self.context_used)
        if phase == "thinking":
            self.thinking_tokens += tokens
        else:
            self.answer_tokens += tokens
        self._recent.append((time.monotonic_ns(), tokens))

    def forced(self, phase: Phase, tokens: int) -> None:
        self.flops[phase] += prefill_flops(self.backend.shape, tokens, self.context_used).total
        self.forced_tokens += tokens

    def metered(self, thinking_limit: int, final_tok_s: float | None = None) -> Metered:
        """The sample that the meter pane shows; the last one has the receipt's rate over the whole answer."""
        now = time.monotonic_ns()
        parts = [self, *self.branches]
        accounts = [part.account for part in parts if part.account is not None]
        rate = _rate(parts, now)
        shape, memory = self.backend.shape, self.backend.memory()
        context, forwarded = self.context_used + 1, self.prefilled - self.cached
        next_flops, next_bytes = decode_flops(shape, context).total, decode_bytes(shape, context).total
        return Metered(
            seconds=(now - self.accepted_ns) / 1e9,
            decode_tok_s=rate if final_tok_s is None else final_tok_s,
            prefill_tok_s=forwarded / self.prefill_s if forwarded and self.prefill_s else None,
            cached_tokens=self.cached,
            thinking_tokens=sum(part.thinking_tokens for part in parts),
            answer_tokens=sum(part.answer_tokens for part in parts),
            drafts_accepted=sum(account.drafts_accepted for account in accounts),
            drafts_rejected=sum(account.drafts_rejected for account in accounts),
            thinking_limit=thinking_limit,
            context_used=self.context_used,
            context_limit=self.backend.info.context,
            flops_prefill=self.flops["prefill"],
            flops_thinking=sum(part.flops["thinking"] for part in parts),
            flops_answer=sum(part.flops["answer"] for part in parts),
            next_token_flops=next_flops,
            next_token_bytes=next_bytes,
            next_token_roofline_s=roofline_seconds(
                next_flops, next_bytes, self.backend.profile, roofline_dtype(self.backend)
            ),
            weights_bytes=memory.weights,
            kv_used_bytes=memory.kv_used,
            kv_allocated_bytes=memory.kv_allocated,
            process_bytes=memory.process,
            device_used_bytes=memory.device_used,
            device_total_bytes=memory.device_total,
        )


def _rate(parts: Sequence[Tally], now_ns: int) -> float | None:
    """Tokens sampled per second over the window, of all parts; None for fewer than two chunks."""
    for part in parts:
        while part._recent and now_ns - part._recent[0][0] > RATE_WINDOW_S * 1e9:
            part._recent.popleft()
    chunks = [chunk for part in parts for chunk in part._recent]
    if len(chunks) < 2:
        return None
    # the first chunk marks the beginning of the span: its own tokens were sampled before it
    began_ns, first = min(chunks)
    return (sum(tokens for _, tokens in chunks) - first) / ((now_ns - began_ns) / 1e9)


def roofline_dtype(backend: Backend) -> str:
    """The dtype whose peak the roofline takes: the model's, or that of simulated hardware which lacks it."""
    profile, dtype = backend.profile, backend.info.dtype
    if backend.info.simulated and dtype not in profile.peaks:
        return profile.dtype or dtype
    return dtype


def step(backend: Backend, candidate: str, work: Forwarded) -> Step:
    """A forward as a receipt's step: its FLOPs and bytes by the one cost formula.

    Of the weights, which a forward reads once for all that are in it, a node bears its share of the tokens.
    """
    name, shape = backend.info.name, backend.shape
    if work.primitive == "draft" and backend.draft is not None:
        name, shape = backend.draft.name, backend.draft.shape
    moved = prefill_bytes(shape, work.tokens, work.context, logits_rows=work.logits_rows)
    return Step(
        primitive=_PRIMITIVES.get(work.kind, work.primitive),
        phase=work.phase,
        candidate=candidate,
        model=name,
        tokens=work.tokens,
        context=work.context,
        seconds=work.seconds,
        busy_seconds=work.seconds * work.share,
        flops=prefill_flops(shape, work.tokens, work.context, logits_rows=work.logits_rows).total,
        bytes=round((moved.weights * work.share + moved.kv_read) * work.part) + moved.kv_write,
    )


_PRIMITIVES: Mapping[str, Literal["verify", "recompute"]] = {
    "draft_rejected": "verify",
    "recomputed": "recompute",
}
