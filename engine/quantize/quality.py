"""How near a model comes to the original: KL divergence and agreement on its texts, and accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from engine.load.tokenizer import HubTokenizer
from engine.quantize.texts import Text, Tick, task_prompts, write_greedily
from engine.tasks.registry import problem_set

SEED = 1
"""Of the problem set: held out from the bundled model's training."""
MOST_TOKENS = 400
"""A reply that has not ended by then is no answer."""
_TOKENS_AT_ONCE = 4096
_LOGITS_AT_ONCE = 2**27
"""Of each of the two models: half a gigabyte in float32."""
_LOGITS_IN_DOUBLE = 2**24
"""Of which divergences are computed at once, in a few copies of 8 bytes each."""
_THOUGHT_ENDS = "</think>"


@dataclass(frozen=True)
class Divergence:
    """Of one text: over how many tokens, their divergences' sum in nats, and likeliest tokens in common."""

    tokens: int
    nats: float
    agreed: int


@dataclass(frozen=True)
class Mean:
    """A mean per token with its standard error, texts being drawn whole."""

    value: float
    error: float


def original_texts(model: Any, tokenizer: HubTokenizer, problems: int, tick: Tick) -> list[Text]:
    """What the model writes for so many held-out problems."""
    prompts = task_prompts(tokenizer, problems, SEED, "test")
    return write_greedily(model, prompts, tokenizer.eos_ids, MOST_TOKENS, tick)


def accuracy(texts: Sequence[Text], tokenizer: HubTokenizer) -> float:
    """The share of the problems of `original_texts` that were solved; a thought without end solves none."""
    problems = problem_set(len(texts), SEED, "test")
    solved = 0
    for problem, text in zip(problems, texts, strict=True):
        if not text.reply or text.reply[-1] not in tokenizer.eos_ids:
            continue
        said = tokenizer.decode([id for id in text.reply if id not in tokenizer.eos_ids])
        thought, closed, answer = said.rpartition(_THOUGHT_ENDS)
        solved += problem.accepts(answer if closed else thought or answer)
    return solved / len(texts)


@torch.inference_mode()
def divergences(
    original: Any, others: Sequence[Any], texts: Sequence[Text], tick: Tick
) -> list[list[Divergence]]:
    """KL(original || other) of every token of the replies, given all before it; per other and text."""
    found: list[dict[int, Divergence]] = [{} for _ in others]
    most = min(_TOKENS_AT_ONCE, _LOGITS_AT_ONCE // original.config.vocab_size)
    for batch in _batches(texts, most):
        longest = max(len(texts[i].ids) for i in batch)
        ids = torch.tensor([texts[i].ids + [0] * (longest - len(texts[i].ids)) for i in batch])
        parts = {i: slice(len(texts[i].prompt) - 1, len(texts[i].ids) - 1) for i in batch}
        ids = ids.to(original.device)
        first = original(input_ids=ids).logits
        for other, of_other in zip(others, found, strict=True):
            second = other(input_ids=ids).logits
            for row, (index, part) in enumerate(parts.items()):
                of_other[index] = _divergence(first[row, part], second[row, part])
        tick(len(batch))
    return [[of_other[index] for index in range(len(texts))] for of_other in found]


def _divergence(first: torch.Tensor, second: torch.Tensor) -> Divergence:
    """Of logits [tokens, vocabulary]."""
    nats = 0.0
    rows = max(1, _LOGITS_IN_DOUBLE // first.shape[-1])
    for own, others in zip(first.split(rows), second.split(rows), strict=True):
        logs = functional.log_softmax(own.double(), -1)
        nats += float((logs.exp() * (logs - functional.log_softmax(others.double(), -1))).sum())
    agreed = (first.argmax(-1) == second.argmax(-1)).sum()
    return Divergence(len(first), nats, int(agreed))


def _batches(texts: Sequence[Text], most: int) -> Iterator[list[int]]:
    """Texts of like lengths, up to so many tokens in all, or one text."""
    batch: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index].ids)):
        if batch and (len(batch) + 1) * len(texts[index].ids) > most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def mean(found: Sequence[Divergence], values: Sequence[float]) -> Mean:
    """Of values summed per text, over tokens; the ratio's error by the spread of texts about it."""
    tokens = sum(each.tokens for each in found)
    value = sum(values) / tokens
    spread = sum((own - value * each.tokens) ** 2 for own, each in zip(values, found, strict=True))
    count = len(found)
    return Mean(value, math.sqrt(spread * count / (count - 1)) / tokens if count > 1 else math.nan)
