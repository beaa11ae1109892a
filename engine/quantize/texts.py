"""Texts to calibrate with and to compare on: read from a file, or written by the model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.load.errors import BadSpec, ModelError
from engine.load.tokenizer import HubTokenizer
from engine.protocol import Message
from engine.tasks.registry import Split, problem_set

Ids = list[int]
Tick = Callable[[int], None]
"""Called with how many more are done."""

_ROWS = 64
"""Texts decoded at once."""


@dataclass(frozen=True)
class Text:
    """A prompt and how it was gone on with, the end-of-sequence token included where one was reached."""

    prompt: Ids
    reply: Ids

    @property
    def ids(self) -> Ids:
        return self.prompt + self.reply


def task_prompts(tokenizer: HubTokenizer, count: int, seed: int, split: Split) -> list[Ids]:
    """Problems of the bundled tasks as the model's chat template asks them, thinking on where it can be.

    Raises BadSpec where there are not so many.
    """
    try:
        asked = problem_set(count, seed, split)
    except RuntimeError as error:
        raise BadSpec(str(error), "ask for fewer") from error
    return [tokenizer.render([Message("user", problem.question)], enable_thinking=True) for problem in asked]


@torch.inference_mode()
def write_greedily(
    model: Any, prompts: Sequence[Ids], ends: frozenset[int], most: int, tick: Tick
) -> list[Text]:
    """What a model goes on with, up to `most` tokens each; prompts of like lengths go together."""
    texts: dict[int, Text] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        for index, reply in zip(rows, _decode(model, [prompts[i] for i in rows], ends, most), strict=True):
            texts[index] = Text(prompts[index], reply)
        tick(len(rows))
    return [texts[index] for index in range(len(prompts))]


def _decode(model: Any, prompts: list[Ids], ends: frozenset[int], most: int) -> list[Ids]:
    """Greedy continuations of a batch, its prompts padded at the left; rows that have ended leave it."""
    device, longest = model.device, max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    replies: list[Ids] = [[] for _ in prompts]
    rows, cache = list(range(len(prompts))), None
    for _ in range(most):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen, cache = output.logits[:, -1].argmax(-1), output.past_key_values
        for row, token in zip(rows, chosen.tolist(), strict=True):
            replies[row].append(token)
        live = [place for place, row in enumerate(rows) if replies[row][-1] not in ends]
        if not live:
            break
        if len(live) < len(rows):
            kept = torch.tensor(live, device=device)
            cache.batch_select_indices(kept)
            rows = [rows[place] for place in live]
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
    return replies


def read_texts(path: Path, tokenizer: HubTokenizer, samples: int, length: int) -> list[Ids]:
    """At most `samples` pieces of at most `length` tokens of a file, taken at random but always the same.

    Plain text, or for a name that ends in .jsonl a JSON object with `text` on each line. Raises ModelError.
    """
    pieces: list[Ids] = []
    for document in _documents(path):
        ids = tokenizer.encode(document)
        pieces += [piece for i in range(0, len(ids), length) if len(piece := ids[i : i + length]) > 1]
    if not pieces:
        raise ModelError(f"{path} has no text", "name a file of plain text, or of JSON Lines with text")
    return random.Random(0).sample(pieces, min(samples, len(pieces)))


def _documents(path: Path) -> Iterator[str]:
    lines = path.suffix in (".jsonl", ".ndjson")
    try:
        content = path.read_text("utf-8")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not text in UTF-8", "name a file of plain text") from error
    if not lines:
        yield content
        return
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise ModelError(f"{path}: line {number} is no JSON object with a text", "correct that line")
        yield text
