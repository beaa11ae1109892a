"""The report: an original and what it was or could be quantized to, side by side on the bundled tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.load.checkpoint import Checkpoint, inspect
from engine.load.choose import check_patterns, quantize_by
from engine.load.errors import BadSpec, ModelError
from engine.load.foresee import foresee
from engine.load.locate import locate
from engine.load.plan import KINDS, QuantPlan, plan_of
from engine.load.quantizer import Quantize
from engine.load.source import plain_values
from engine.load.tokenizer import HubTokenizer
from engine.protocol.quant import AUTO, parse_quant
from engine.protocol.quantize import Quality, QualityRow
from engine.protocol.receipt import derived, measured, unavailable
from engine.quantize import quality
from engine.quantize.matrices import BYTES, own_bytes, plain_checkpoint
from engine.quantize.models import dtype_for, load
from engine.quantize.pace import Emit, Pace
from engine.quantize.texts import Text, write_greedily

_FILES = "tensors in the files"
_PLAN = "what loading makes of each tensor"
_SOLVED = "held-out problems of the bundled tasks"


@dataclass(frozen=True)
class _Other:
    """A model to hold against the original; `nbytes` is what its weights take, `sized` whence that is."""

    name: str
    checkpoint: Checkpoint
    quantize: Quantize | None
    nbytes: int
    sized: str


def report(model: str, others: Sequence[str], problems: int, device: str, emit: Emit) -> Quality:
    """`others` are models, or kinds as `--quant` takes them. Raises ModelError and BadSpec."""
    original = plain_checkpoint(model)
    compared = [_other(name, original) for name in others]
    tokenizer = HubTokenizer(original.folder)
    dtype = dtype_for(original, device, models=2)
    first = load(original, device, emit, dtype)
    pace = Pace(emit, "writing the original's texts", problems, problems)
    texts = quality.original_texts(first, tokenizer, problems, pace.tick)
    count = plain_values(original.source)
    itself = unavailable("1", "it is the original")
    rows = [
        QualityRow(
            name=model,
            bytes=derived(own_bytes(original), "B", _FILES),
            bytes_per_weight=derived(own_bytes(original) / count, "B", f"{_FILES} | parameters"),
            kl=itself,
            kl_error=itself,
            agreement=itself,
            accuracy=measured(quality.accuracy(texts, tokenizer), "1", _SOLVED),
        )
    ]
    for other in compared:
        second = load(other.checkpoint, device, emit, dtype, other.quantize)
        rows.append(_row(other, first, second, texts, tokenizer, count, emit))
        del second
    tokens = sum(len(text.reply) for text in texts)
    return Quality(problems=problems, tokens=tokens, dtype=dtype, rows=tuple(rows))


def _other(name: str, original: Checkpoint) -> _Other:
    if name.partition(",")[0] in KINDS and not Path(name).is_dir():
        try:
            asked = parse_quant(name)
        except ValueError as error:
            raise BadSpec(str(error)) from error
        plan: QuantPlan = plan_of(asked, bool(original.config.tie_word_embeddings), "as asked for")
        foreseen = foresee(original)
        check_patterns(plan, foreseen)
        size = foreseen.memory(plan, BYTES[original.source.dtype])
        return _Other(f"--quant {name}", original, quantize_by(plan), size, _PLAN)
    if name == AUTO:
        raise BadSpec("auto goes by this machine's memory", "name a kind: int8, int4 or fp8")
    checkpoint = inspect(locate(name))
    foresee(checkpoint)
    if checkpoint.shape.vocab != original.shape.vocab:
        raise ModelError(
            f"{name} has {checkpoint.shape.vocab} tokens, the original {original.shape.vocab}",
            "compare models with the same vocabulary",
        )
    return _Other(name, checkpoint, None, own_bytes(checkpoint), _FILES)


def _row(
    other: _Other, first: Any, second: Any, texts: list[Text], tokenizer: HubTokenizer, count: int, emit: Emit
) -> QualityRow:
    pace = Pace(emit, f"comparing {other.name}", len(texts), len(texts))
    [found] = quality.divergences(first, [second], texts, pace.tick)
    pace = Pace(emit, f"{other.name} solves problems", len(texts), len(texts))
    prompts = [text.prompt for text in texts]
    own = write_greedily(second, prompts, tokenizer.eos_ids, quality.MOST_TOKENS, pace.tick)
    kl = quality.mean(found, [each.nats for each in found])
    agreed = sum(each.agreed for each in found) / sum(each.tokens for each in found)
    return QualityRow(
        name=other.name,
        bytes=derived(other.nbytes, "B", other.sized),
        bytes_per_weight=derived(other.nbytes / count, "B", f"{other.sized} | parameters"),
        kl=measured(kl.value, "1", "nats per token of the original's texts"),
        kl_error=derived(kl.error, "1", "spread of the texts"),
        agreement=measured(agreed, "1", "likeliest tokens alike"),
        accuracy=measured(quality.accuracy(own, tokenizer), "1", _SOLVED),
    )
