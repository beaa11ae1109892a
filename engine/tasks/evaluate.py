"""Measure a checkpoint on held-out problems: python -m engine.tasks.evaluate MODEL --problems 300.

Accuracy with thinking off, capped at a few lengths, and in full, overall and by family, as JSON on stdout.
Decodes greedily through transformers, so that its figures do not depend on mull's own runtime.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from engine.tasks.examples import THINK_CLOSE, THINK_OPEN
from engine.tasks.problem import Problem
from engine.tasks.registry import FAMILIES, problem_set

THINKING_CAPS = (8, 16, 32, 64)
FORCED_CLOSE = "\n" + THINK_CLOSE
MAX_ANSWER_TOKENS = 64
MAX_FULL_TOKENS = 400
_BATCH_ROWS = 128


@dataclass(frozen=True)
class ModeResult:
    """One thinking mode ("off", a cap in tokens, "full") over all problems; shares lie in 0..1."""

    mode: str
    accuracy: float
    mean_thinking_tokens: float
    unfinished: int  # thoughts that never closed
    accuracy_by_family: dict[str, float]


@dataclass(frozen=True)
class Reply:
    """What the model said: the thinking's token ids without `<think>`, and the answer if one was reached."""

    thought: list[int]
    answer: str | None


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
        return [Reply([], self._text(ids)) for ids in self.decode(prompts, MAX_ANSWER_TOKENS)]

    def answer_in_full(self, questions: Sequence[str]) -> list[Reply]:
        """Answers after as much thinking as the model likes, up to MAX_FULL_TOKENS."""
        prompts = [self._prompt(question, thinking=True) for question in questions]
        return [self._split(ids) for ids in self.decode(prompts, MAX_FULL_TOKENS)]

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
        for i, ids in zip(cut, self.decode(prompts, MAX_ANSWER_TOKENS), strict=True):
            replies[i] = Reply(full[i].thought[:cap], self._text(ids))
        return replies

    @torch.inference_mode()
    def decode(self, prompts: Sequence[list[int]], max_new: int) -> list[list[int]]:
        """Greedy continuations of up to `max_new` tokens, in batches of similar lengths."""
        results: list[list[int]] = [[] for _ in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(by_length), _BATCH_ROWS):
            rows = by_length[start : start + _BATCH_ROWS]
            for i, ids in zip(rows, self._decode_batch([prompts[i] for i in rows], max_new), strict=True):
                results[i] = ids
        return results

    def _decode_batch(self, prompts: list[list[int]], max_new: int) -> list[list[int]]:
        device, eos, pad = self.model.device, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        length = max(map(len, prompts))
        step_ids = torch.tensor([[pad] * (length - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        chosen: list[Tensor] = []
        cache = None
        for _ in range(max_new):
            output = self.model(
                input_ids=step_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            token = output.logits[:, -1].argmax(-1)
            chosen.append(token)
            done |= token == eos
            if done.all():
                break
            step_ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
        continuations = torch.stack(chosen, 1).tolist()
        return [ids[: ids.index(eos)] if eos in ids else ids for ids in continuations]

    def _prompt(self, question: str, thinking: bool) -> list[int]:
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return self._tokenize(str(text))

    def _split(self, ids: list[int]) -> Reply:
        if ids[: len(self._open)] == self._open:
            ids = ids[len(self._open) :]
        if self._close_id not in ids:
            return Reply(ids, None)
        end = ids.index(self._close_id)
        return Reply(ids[:end], self._text(ids[end + 1 :]))

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def judge(mode: str, problems: Sequence[Problem], replies: Sequence[Reply]) -> ModeResult:
    """Compare replies with the right answers."""
    right = [r.answer is not None and p.accepts(r.answer) for p, r in zip(problems, replies, strict=True)]
    by_family = {}
    for name in FAMILIES:
        hits = [hit for problem, hit in zip(problems, right, strict=True) if problem.family == name]
        if hits:
            by_family[name] = round(sum(hits) / len(hits), 3)
    return ModeResult(
        mode=mode,
        accuracy=round(sum(right) / len(right), 3),
        mean_thinking_tokens=round(sum(len(reply.thought) for reply in replies) / len(replies), 1),
        unfinished=sum(reply.answer is None for reply in replies),
        accuracy_by_family=by_family,
    )


def evaluate(examinee: Examinee, problems: Sequence[Problem]) -> list[ModeResult]:
    """Results with thinking off, at every cap of THINKING_CAPS, and in full."""
    questions = [problem.question for problem in problems]
    full = examinee.answer_in_full(questions)
    results = [judge("off", problems, examinee.answer_directly(questions))]
    for cap in THINKING_CAPS:
        results.append(judge(str(cap), problems, examinee.answer_capped(questions, full, cap)))
    return [*results, judge("full", problems, full)]


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, evaluate, print JSON, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.tasks.evaluate", description="Measure a checkpoint on held-out problems."
    )
    parser.add_argument("model", type=Path, help="folder of a checkpoint")
    parser.add_argument(
        "--problems", type=int, default=300, help="number of held-out problems, all families alike"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the problem set")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(argv)
    if options.problems < 1:
        parser.error("--problems must be at least 1")
    if not (options.model / "config.json").is_file():
        print(f"No checkpoint in {options.model}: config.json is missing.", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    try:
        problems = problem_set(options.problems, options.seed)
    except RuntimeError as error:
        print(f"{error}; ask for fewer with --problems.", file=sys.stderr)
        return 1
    results = evaluate(Examinee.load(options.model), problems)
    report = {
        "problems": len(problems),
        "seed": options.seed,
        "torch": torch.__version__,
        "results": [asdict(result) for result in results],
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
