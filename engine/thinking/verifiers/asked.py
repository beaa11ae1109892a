"""Judges by asking the model itself: how likely it holds each verdict to be. It writes nothing.

A question is put as a chat turn without thoughts, and the log-probabilities of the possible verdicts are read
off. All that goes through the model for it is charged to the answer as `score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from engine.protocol import Message
from engine.thinking.context import Cancelled, Context
from engine.thinking.prompt import Renderer
from engine.thinking.verifiers.judgement import CannotJudge, Judgement
from engine.thinking.verifiers.sureness import lowest

MOST_CONSISTENT = 4
"""Answers that one question names at most (universal self-consistency, arXiv:2311.17311)."""
MOST_JUDGED = 3
"""Answers that are compared in pairs at most: each pair takes two questions."""
ROOM = 64
"""Tokens kept for the template, and for the verdict."""
CUT = "\n[…]\n"
"""Stands for the middle of an answer that is too long to be shown whole."""

PAIR = """Here are a question and two answers to it.

Question: {question}

Answer A: {one}

Answer B: {other}

Which answer is better? Say A or B and nothing else."""

SEVERAL = """Here are a question and {count} answers to it, by number.

Question: {question}

{answers}

Which of these answers agrees best with the others? Say its number and nothing else."""


async def by_consistency(ctx: Context, candidates: Sequence[Context]) -> Judgement:
    """One question: which of the answers agrees best with the others? Those it names first are the first few.

    Source: Chen et al., "Universal self-consistency", 2023 (arXiv:2311.17311).
    """
    shown = list(candidates[:MOST_CONSISTENT])
    texts = _texts(ctx, shown, len(shown))
    answers = "\n\n".join(f"Answer {at}: {text}" for at, text in enumerate(texts, 1))
    asked = SEVERAL.format(count=len(shown), question=_question(ctx), answers=answers)
    shares = await _verdict(ctx, asked, [str(at) for at in range(1, len(shown) + 1)])
    weights = {one.candidate: share for one, share in zip(shown, shares, strict=True)}
    return Judgement(weights, f"consistency, by the model's own judgement of {len(shown)} answers")


async def by_judge(ctx: Context, candidates: Sequence[Context]) -> Judgement:
    """Pair by pair, each in both orders. Who is preferred in both wins; else the surer one does."""
    shown = list(candidates[:MOST_JUDGED])
    wins = dict.fromkeys((one.candidate for one in shown), 0.0)
    undecided = 0
    for one, other in combinations(shown, 2):
        texts = _texts(ctx, [one, other], 2)
        firsts = []
        for order in (texts, texts[::-1]):
            asked = PAIR.format(question=_question(ctx), one=order[0], other=order[1])
            firsts.append((await _verdict(ctx, asked, ["A", "B"]))[0] > 0.5)
        if firsts[0] != firsts[1]:
            winner = one if firsts[0] else other
        else:
            undecided += 1
            winner = max((one, other), key=lowest)
        wins[winner.candidate] += 1
    pairs = len(shown) * (len(shown) - 1) // 2
    ties = f", {undecided} of {pairs} pairs left to confidence" if undecided else ""
    return Judgement(wins, f"the model as judge of {len(shown)} answers{ties}")


def _question(ctx: Context) -> str:
    return ctx.messages[-1].content


def _texts(ctx: Context, candidates: Sequence[Context], beside: int) -> list[str]:
    """The answers, each cut in its middle where not all fit. Raises CannotJudge."""
    encode, decode = ctx.backend.tokenizer.encode, ctx.backend.tokenizer.decode
    around = len(encode(SEVERAL + _question(ctx))) + ROOM
    each = (ctx.backend.info.context - around) // beside - 2 * len(encode(CUT))
    if each < 2:
        raise CannotJudge("the context is too small to show the answers in")
    texts = []
    for one in candidates:
        ids = encode(one.answer.strip())
        half = each // 2
        texts.append(
            one.answer.strip() if len(ids) <= each else decode(ids[:half]) + CUT + decode(ids[-half:])
        )
    return texts


async def _verdict(ctx: Context, asked: str, verdicts: Sequence[str]) -> list[float]:
    """How likely each verdict is, of these. Raises CannotJudge, Cancelled, and what the primitives raise."""
    backend = ctx.backend
    renderer = Renderer(backend.tokenizer, ctx.format, backend.info.context)
    prompt = await renderer.prompt((Message("user", asked),), think=False)
    options = [backend.tokenizer.encode(verdict) for verdict in verdicts]
    taken = len(prompt.ids) + sum(map(len, options))
    if not ctx.purse.affords(1, taken, 0):
        raise CannotJudge("the budget does not pay for it")
    node = await backend.prefill(prompt.ids, ctx.answer_lease)
    share = ctx.purse.open(node)
    try:
        logs = []
        for ids in options:
            if ctx.answer_lease.cancelled:
                raise Cancelled
            logs.append(sum(await backend.score(node, ids)))
    finally:
        ctx.judging.append(node.account)
        ctx.purse.close(share)
        await backend.cancel(node)
    best = max(logs)
    shares = [math.exp(log - best) for log in logs]
    return [share / sum(shares) for share in shares]
