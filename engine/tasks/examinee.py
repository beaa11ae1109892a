"""A checkpoint that answers in batches, greedily or by sampling, with thinking off, capped or in full.

Decodes through transformers, so that what is measured does not depend on mull's own runtime.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from engine.tasks.examples import THINK_CLOSE, THINK_OPEN

FORCED_CLOSE = "\n" + THINK_CLOSE
MAX_ANSWER_TOKENS = 64
MAX_FULL_TOKENS = 512
_BATCH_ROWS = 128
_COMPACTED_BELOW = 0.6  # share of rows still writing at which the others leave the batch


@dataclass(frozen=True)
class Continuation:
    """What the model wrote after a prompt, and the mean natural log-probability of its tokens."""

    ids: list[int]
    mean_logprob: float


@dataclass(frozen=True)
class Reply:
    """What the model said: the thinking's token ids without `<think>`, and the answer if one was reached."""

    thought: list[int]
    answer: str | None
    mean_logprob: float = 0.0


class Examinee:
    """A model under test, with its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._open = self._tokenize(THINK_OPEN)
        self._close_id = tokenizer.convert_tokens_to_ids("</think>")

    @classmethod
    def load(cls, folder: str | Path) -> "Examinee":
        """Load a local checkpoint in float32, on the GPU where there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return cls(model.to(device), AutoTokenizer.from_pretrained(folder, local_files_only=True))

    def answer_directly(self, questions: Sequence[str]) -> list[Reply]:
        """Answers with thinking off."""
        prompts = [self._prompt(question, thinking=False) for question in questions]
        return [Reply([], self._text(c.ids)) for c in self.decode(prompts, MAX_ANSWER_TOKENS)]

    def answer_in_full(self, questions: Sequence[str]) -> list[Reply]:
        """Answers after as much thinking as the model likes, up to MAX_FULL_TOKENS."""
        return self.answer_after(questions, [""] * len(questions))

    def answer_after(self, questions: Sequence[str], thoughts: Sequence[str]) -> list[Reply]:
        """Answers after thoughts that begin as given; a reply's thought includes that beginning."""
        begun = [self._tokenize(thought) for thought in thoughts]
        prompts = [
            self._prompt(question, thinking=True) + (self._open + begin if begin else [])
            for question, begin in zip(questions, begun, strict=True)
        ]
        written = self.decode(prompts, MAX_FULL_TOKENS)
        return [self._split(begin, c) for begin, c in zip(begun, written, strict=True)]

    def sample(
        self, questions: Sequence[str], count: int, temperature: float, seed: int
    ) -> list[list[Reply]]:
        """`count` replies per question, thinking in full, drawn at `temperature`."""
        prompts = [self._prompt(question, thinking=True) for question in questions for _ in range(count)]
        written = self.decode(prompts, MAX_FULL_TOKENS, temperature, seed)
        replies = [self._split([], c) for c in written]
        return [replies[i : i + count] for i in range(0, len(replies), count)]

    def answer_capped(self, questions: Sequence[str], full: Sequence[Reply], cap: int) -> list[Reply]:
        """Answers when thinking is closed by force after `cap` tokens of the `full` thoughts.

        Greedy decoding makes the first `cap` tokens the same with and without the cap.
        """
        replies = list(full)
        cut = [i for i, reply in enumerate(full) if len(reply.thought) > cap]
        close = self._tokenize(FORCED_CLOSE)
        prompts = [
            self._prompt(questions[i], thinking=True) + self._open + full[i].thought[:cap] + close
            for i in cut
        ]
        for i, c in zip(cut, self.decode(prompts, MAX_ANSWER_TOKENS), strict=True):
            replies[i] = Reply(full[i].thought[:cap], self._text(c.ids))
        return replies

    @torch.inference_mode()
    def decode(
        self, prompts: Sequence[list[int]], max_new: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Continuation]:
        """Continuations of up to `max_new` tokens, in batches of similar lengths; greedy at temperature 0."""
        results: dict[int, Continuation] = {}
        generator = torch.Generator(self.model.device).manual_seed(seed)
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(by_length), _BATCH_ROWS):
            rows = by_length[start : start + _BATCH_ROWS]
            batch = _Batch(self.model, [prompts[i] for i in rows], self.tokenizer.pad_token_id)
            batch.write(max_new, temperature, generator, self.tokenizer.eos_token_id)
            results |= zip(rows, batch.continuations(self.tokenizer.eos_token_id), strict=True)
        return [results[i] for i in range(len(prompts))]

    def text_of(self, thought: Sequence[int]) -> str:
        """A thought's token ids as text."""
        return str(self.tokenizer.decode(thought))

    def _prompt(self, question: str, thinking: bool) -> list[int]:
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return self._tokenize(str(text))

    def _split(self, begin: list[int], written: Continuation) -> Reply:
        ids = written.ids
        if not begin and ids[: len(self._open)] == self._open:
            ids = ids[len(self._open) :]
        if self._close_id not in ids:
            return Reply(begin + ids, None, written.mean_logprob)
        end = ids.index(self._close_id)
        return Reply(begin + ids[:end], self._text(ids[end + 1 :]), written.mean_logprob)

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


class _Batch:
    """Prompts continued together, padded at the left; rows that have ended leave it in time."""

    def __init__(self, model: PreTrainedModel, prompts: list[list[int]], pad: int) -> None:
        self._model = model
        length = max(map(len, prompts))
        self._ids = torch.tensor([[pad] * (length - len(p)) + p for p in prompts], device=model.device)
        self._mask = torch.tensor(
            [[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=model.device
        )
        self._rows = torch.arange(len(prompts), device=model.device)  # those still written
        self._written: list[list[int]] = [[] for _ in prompts]
        self._logprobs: list[list[float]] = [[] for _ in prompts]

    def write(self, max_new: int, temperature: float, generator: torch.Generator, eos: int) -> None:
        """Continue every row until it ends or has `max_new` tokens."""
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache()
        ids = self._ids
        for _ in range(max_new):
            logits = self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            token = _choose(logits, temperature, generator)
            logprob = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
            writing = self._note(token, logprob, eos)
            if not writing.any():
                return
            ids, positions = token[:, None], positions[:, -1:] + 1
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], 1)
            if writing.float().mean() < _COMPACTED_BELOW:
                kept = writing.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                ids, positions, self._mask = ids[kept], positions[kept], self._mask[kept]
                self._rows = self._rows[kept]

    def _note(self, token: Tensor, logprob: Tensor, eos: int) -> Tensor:
        """Add a token to every row that has not ended; tell which rows go on."""
        writing = []
        for row, chosen, value in zip(self._rows.tolist(), token.tolist(), logprob.tolist(), strict=True):
            ids = self._written[row]
            if not ids or ids[-1] != eos:
                ids.append(chosen)
                self._logprobs[row].append(value)
            writing.append(ids[-1] != eos)
        return torch.tensor(writing, device=token.device)

    def continuations(self, eos: int) -> list[Continuation]:
        """What was written, without the token that ends a turn."""
        return [
            Continuation(ids[:-1] if ids[-1] == eos else ids, sum(logprobs) / len(logprobs))
            for ids, logprobs in zip(self._written, self._logprobs, strict=True)
        ]


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token per row (rows,) from logits (rows, vocabulary)."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
