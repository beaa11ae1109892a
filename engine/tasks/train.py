"""Train the bundled model from scratch: python -m engine.tasks.train --out DIR --minutes 40 [--resume].

Muon for the matrices, AdamW for the rest; loss on the last assistant turn only. Runs on a CPU or a GPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine.tasks.corpus import EASY_POOLS, IGNORED, Batch, batch_stream
from engine.tasks.recipe import (
    TrainingArguments,
    block_loss,
    build_model,
    build_optimizers,
    rate_share,
    to_tensors,
    warm_start,
)
from engine.tasks.tokenizer import build_tokenizer

STATE_FILE = "training_state.pt"
ARGUMENTS_FILE = "training_arguments.json"
LOG_FILE = "training_log.jsonl"


def write_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a Hugging Face checkpoint: bf16 weights, config, greedy generation config, tokenizer."""
    config = Qwen3Config.from_dict(model.config.to_dict() | {"use_cache": True})
    exported = Qwen3ForCausalLM(config).to(torch.bfloat16)
    exported.load_state_dict(model.state_dict())
    exported.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    exported.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)


class TrainingRun:
    """A run that can stop after any step and go on later from its folder."""

    def __init__(
        self, folder: Path, arguments: TrainingArguments, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.folder = folder
        self.arguments = arguments
        self.tokenizer = tokenizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.model = build_model(arguments, tokenizer).to(self.device)
        self.optimizers = build_optimizers(self.model, arguments)
        self._full_rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]

    @classmethod
    def resume(cls, folder: Path, minutes: float | None = None) -> "TrainingRun":
        """Go on with the run in `folder` under its own arguments, or with another length in minutes.

        Raises FileNotFoundError where there is no run.
        """
        arguments = TrainingArguments(**json.loads((folder / ARGUMENTS_FILE).read_text()))
        if minutes is not None:
            arguments = replace(arguments, minutes=minutes)
        run = cls(folder, arguments, AutoTokenizer.from_pretrained(folder, local_files_only=True))
        state = torch.load(folder / STATE_FILE, map_location=run.device, weights_only=True)
        run.model.load_state_dict(state["model"])
        for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        run.step, run.tokens, run.seconds = state["step"], state["tokens"], state["seconds"]
        return run

    @property
    def progress(self) -> float:
        """The share of the run that is done, by steps or else by seconds of training."""
        if self.arguments.steps is not None:
            return self.step / self.arguments.steps
        return self.seconds / (60 * self.arguments.minutes)

    def save(self) -> None:
        """Write the checkpoint for use and the state for resuming, the state last and in one move."""
        write_model(self.model, self.tokenizer, self.folder)
        (self.folder / ARGUMENTS_FILE).write_text(json.dumps(asdict(self.arguments), indent=2) + "\n")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        partial = self.folder / (STATE_FILE + ".partial")
        torch.save(state, partial)
        partial.replace(self.folder / STATE_FILE)

    def train(self, save_every: float, report_every: float, report: Callable[[str], None]) -> None:
        """Train to the end of the run, saving and reporting every so many seconds."""
        seed, tokens = self.arguments.seed, self.arguments.batch_tokens
        first = EASY_POOLS if self.arguments.start else 0
        batches = batch_stream(self.tokenizer, seed, tokens, self.step, first)
        last_save = last_report = self.seconds
        last_tokens, losses = self.tokens, []
        while self.progress < 1:
            started = time.monotonic()
            losses.append(self._train_step(next(batches)))
            self.seconds += time.monotonic() - started
            if self.seconds - last_report >= report_every:
                rate = (self.tokens - last_tokens) / (self.seconds - last_report)
                report(self._progress_line(sum(losses) / len(losses), rate))
                last_report, last_tokens, losses = self.seconds, self.tokens, []
            if self.seconds - last_save >= save_every:
                self.save()
                last_save = self.seconds
        self.save()

    def _train_step(self, batch: Batch) -> float:
        share = rate_share(self.step, self.progress)
        for optimizer, rates in zip(self.optimizers, self._full_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
        learned = sum(label != IGNORED for block in batch for example in block for label in example.labels)
        total = 0.0
        for block in batch:
            ids, labels = to_tensors(block, self.tokenizer.pad_token_id, self.device)
            loss = block_loss(self.model, ids, labels)
            (loss.trained / learned).backward()
            total += loss.final.item()
            self.tokens += ids.numel()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return total / learned

    def _progress_line(self, loss: float, rate: float) -> str:
        left = self.seconds * (1 - self.progress) / max(self.progress, 1e-9)
        record = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds),
            "loss": round(loss, 4),
        }
        with (self.folder / LOG_FILE).open("a") as log:
            log.write(json.dumps(record) + "\n")
        return (
            f"step {self.step}  {self.tokens / 1e6:.2f} M tokens  loss {loss:.4f}  "
            f"{rate:.0f} tokens/s  about {max(left, 0) / 60:.1f} min left"
        )


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, train, and return the exit status."""
    defaults = TrainingArguments()
    parser = argparse.ArgumentParser(
        prog="python -m engine.tasks.train", description="Train the bundled model."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the checkpoint and the training state"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out; all but --minutes stays"
    )
    parser.add_argument("--start", help="checkpoint whose weights a new run begins with")
    parser.add_argument("--minutes", type=float, default=None, help="length of the whole run (40)")
    parser.add_argument(
        "--steps", type=int, default=None, help="length of the run in steps instead of minutes"
    )
    for name in ("muon-rate", "adamw-rate"):
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name.replace("-", "_")))
    for name in ("seed", "batch-tokens", "hidden", "layers", "heads", "kv-heads", "head-dim", "feed-forward"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name.replace("-", "_")))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds between checkpoints")
    parser.add_argument("--report-every", type=float, default=30.0, help="seconds between progress lines")
    options = vars(parser.parse_args(argv))
    folder, resume = options.pop("out"), options.pop("resume")
    save_every, report_every = options.pop("save_every"), options.pop("report_every")
    torch.set_num_threads(options.pop("threads"))
    if resume and not (folder / STATE_FILE).exists():
        print(f"Nothing to resume in {folder}: start a run without --resume.", file=sys.stderr)
        return 1
    if not resume and (folder / STATE_FILE).exists():
        print(f"{folder} holds a run: go on with --resume, or choose another folder.", file=sys.stderr)
        return 1
    if resume:
        run = TrainingRun.resume(folder, options["minutes"])
    else:
        options["minutes"] = options["minutes"] or defaults.minutes
        run = TrainingRun(folder, TrainingArguments(**options), build_tokenizer())
        if options["start"]:
            warm_start(run.model, run.tokenizer, Path(options["start"]))
    parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{parameters:,} parameters on {run.device}, from step {run.step}", flush=True)
    run.train(save_every, report_every, lambda line: print(line, flush=True))
    print(f"done: {run.step} steps, {run.tokens:,} tokens, {run.seconds / 60:.1f} min", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
