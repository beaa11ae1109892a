"""The model computes what transformers computes: logits and tokens, in float32, over pages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_checkpoint import FAMILIES, WINDOW, prompt, reference, save_checkpoint
from transformers import AutoModelForCausalLM

from engine.load.errors import ModelError
from engine.load.locate import locate
from engine.protocol import Message, ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.sequence import Sequence
from engine.runtime.step import Segment, Step
from profiles.detect import Settings, detect
from profiles.shape import supported_families

PROMPT = prompt(2 * PAGE + 2 * WINDOW + 5)
NEW = PAGE + 6  # decoding crosses a page's border
TOLERANCE = 2e-4
CPU = Settings("cpu", "fp32", 1)
REFUSED = {"nemotron", "stablelm"}  # their modelling code passes nothing on to another attention

Load = Callable[[str], LocalBackend]
Checkpoint = Callable[[str], Path]


@dataclass(frozen=True)
class Text:
    """Greedy tokens after the prompt, and the logits that each was chosen from."""

    tokens: list[int]
    logits: np.ndarray

    def differs(self, other: Text) -> bool:
        """Whether the two would be told apart: in a token, or in a logit by more than rounding."""
        return self.tokens != other.tokens or self.distance(other) > TOLERANCE

    def distance(self, other: Text) -> float:
        return float(np.abs(self.logits - other.logits).max())


@contextmanager
def sequence(backend: LocalBackend) -> Iterator[Sequence]:
    held = Sequence(backend.runner.pool)
    try:
        yield held
    finally:
        backend.runner.pool.release(held.table)  # without a trace: some of what is computed here is wrong
    backend.runner.pool.check_integrity([])


@contextmanager
def scatter(pool: PagePool, held: Sequence) -> Iterator[None]:
    """Give a sequence all the pages that it will need, in disorder; others hold the rest of the pool."""
    needed = -(-(len(PROMPT) + NEW) // PAGE)
    others: list[int] = []
    pool.grow(others, pool.pages)
    chosen = random.Random(0).sample(others, needed)
    for page in chosen:
        others.remove(page)
        pool.release([page])
        pool.grow(held.table, len(held.table) + 1)
    assert held.table == chosen
    try:
        yield
    finally:
        pool.release(others)


def ours(backend: LocalBackend, *, chunk: int = len(PROMPT), scattered: bool = False) -> Text:
    """The backend's greedy text: the prompt in chunks, then a token at a time."""
    with sequence(backend) as held, scatter(backend.runner.pool, held) if scattered else nullcontext():
        for begin in range(0, len(PROMPT), chunk):
            backend.runner.forward(held, PROMPT[begin : begin + chunk])
        rows = [held.logits]
        while len(rows) < NEW:
            backend.runner.forward(held, [int(rows[-1].argmax())])
            rows.append(held.logits)
    return Text([int(row.argmax()) for row in rows], np.stack(rows))


@pytest.fixture(scope="module")
def theirs(checkpoint: Checkpoint) -> Callable[[str], Text]:
    """transformers' own generate on the same checkpoint."""
    made: dict[str, Text] = {}

    def get(family: str) -> Text:
        if family not in made:
            out = reference(checkpoint(family)).generate(
                torch.tensor([PROMPT]),
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                return_dict_in_generate=True,
                output_logits=True,
            )
            tokens = out.sequences[0, len(PROMPT) :].tolist()
            made[family] = Text(tokens, torch.cat(out.logits).float().numpy())
        return made[family]

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_and_logits_equal_those_of_transformers(
    load: Load, theirs: Callable[[str], Text], family: str
) -> None:
    expected, text = theirs(family), ours(load(family))
    assert len(set(expected.tokens)) > 5, "a reference that repeats itself proves little"
    assert text.tokens == expected.tokens
    assert text.distance(expected) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_in_chunks_over_scattered_pages_gives_the_same_text(
    load: Load, theirs: Callable[[str], Text], family: str
) -> None:
    text = ours(load(family), chunk=37, scattered=True)
    assert text.tokens == theirs(family).tokens
    assert text.distance(theirs(family)) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_decoded_gets_the_logits_that_it_gets_in_a_prompt(load: Load, family: str) -> None:
    backend = load(family)
    with sequence(backend) as whole:
        backend.runner.forward(whole, PROMPT)
        expected = whole.logits
    with sequence(backend) as stepwise:
        backend.runner.forward(stepwise, PROMPT[: PAGE + 1])
        for token in PROMPT[PAGE + 1 :]:
            backend.runner.forward(stepwise, [token])
        assert np.abs(stepwise.logits - expected).max() < TOLERANCE


def test_the_bundled_model_writes_what_transformers_writes() -> None:
    backend = create(ModelSpec(model="tiny"), detect().profile, CPU)
    stock = AutoModelForCausalLM.from_pretrained(locate("tiny"), dtype=torch.float32).eval()
    ids = backend.tokenizer.render([Message("user", "What is 4748 + 2674?")])
    expected = stock.generate(torch.tensor([ids]), max_new_tokens=80, do_sample=False, eos_token_id=None)
    with sequence(backend) as held:
        backend.runner.forward(held, ids)
        tokens = [int(held.logits.argmax())]
        while len(tokens) < 80:
            backend.runner.forward(held, tokens[-1:])
            tokens.append(int(held.logits.argmax()))
    assert tokens == expected[0, len(ids) :].tolist()
    backend.close()


@pytest.mark.parametrize(
    ("family", "path"),
    [("llama", "fused"), ("qwen2", "fused"), ("qwen3", "fused"), ("mistral", "fused"), ("gemma2", "stock")],
)
def test_standard_decoders_take_the_fused_path(load: Load, family: str, path: str) -> None:
    assert path in load(family).kernel_class


def test_a_decoder_that_is_built_alike_but_computes_otherwise_keeps_its_own_path(tmp_path: Path) -> None:
    """Gemma scales its embeddings; Granite its residuals, by a setting."""
    for family, changes in (("gemma", {}), ("granite", {"residual_multiplier": 0.5})):
        folder = save_checkpoint(tmp_path / family, family, **changes)
        backend = create(ModelSpec(model=str(folder)), detect().profile, CPU)
        assert "stock" in backend.kernel_class
        backend.close()


@pytest.mark.parametrize("family", supported_families())
def test_every_family_whose_costs_are_known_gives_the_same_logits_or_is_refused(
    tmp_path: Path, family: str
) -> None:
    folder = save_checkpoint(tmp_path, family)
    try:
        backend = create(ModelSpec(model=str(folder)), detect().profile, CPU)
    except ModelError:
        assert family in REFUSED
        return
    with torch.no_grad():
        expected = reference(folder)(torch.tensor([PROMPT])).logits[0].numpy()
    with sequence(backend) as held:
        backend.runner.forward(held, PROMPT[:100])
        assert np.abs(held.logits - expected[99]).max() < TOLERANCE
        backend.runner.forward(held, PROMPT[100:-1])
        backend.runner.forward(held, PROMPT[-1:])
        assert np.abs(held.logits - expected[-1]).max() < TOLERANCE
    backend.close()
    assert family not in REFUSED


# The comparison above is worth something only if it fails when the computation is wrong.


def drop_a_page(monkeypatch: pytest.MonkeyPatch, backend: LocalBackend) -> None:
    """Read the first page in place of the third."""
    read = Segment.read

    def wrong(segment: Segment, layer: int, first: int) -> Any:
        table, base = segment.table, segment.base
        if len(table) > 2:
            segment.table, segment.base = [*table[:2], table[0], *table[3:]], None
        try:
            return read(segment, layer, first)
        finally:
            segment.table, segment.base = table, base

    monkeypatch.setattr(Segment, "read", wrong)


def shift_positions(monkeypatch: pytest.MonkeyPatch, backend: LocalBackend) -> None:
    """Decode each token as if it stood one place further on."""
    forward, positions = backend.runner._forward, Step.positions

    def shifted(step: Step, device: torch.device) -> torch.Tensor:
        return positions(step, device) + int(step.length == 1)

    monkeypatch.setattr(Step, "positions", shifted)
    for name in ("_cos", "_sin"):  # of the fused one
        if hasattr(forward, name):
            table = getattr(forward, name)
            prompt, rest = table.split([len(PROMPT), len(table) - len(PROMPT)])
            monkeypatch.setattr(forward, name, torch.cat([prompt, rest.roll(-1, 0)]))


def zero_attention(monkeypatch: pytest.MonkeyPatch, backend: LocalBackend) -> None:
    """Let attention add nothing."""
    read = Segment.read

    def nothing(segment: Segment, layer: int, first: int) -> Any:
        keys, values = read(segment, layer, first)
        return keys, torch.zeros_like(values)

    monkeypatch.setattr(Segment, "read", nothing)


def forget_the_window(monkeypatch: pytest.MonkeyPatch, backend: LocalBackend) -> None:
    """Let windowed layers see everything."""
    first, mask = Segment.first_key, Segment.mask
    monkeypatch.setattr(
        Segment, "first_key", lambda segment, _, position=None: first(segment, None, position)
    )
    monkeypatch.setattr(Segment, "mask", lambda segment, _, like: mask(segment, None, like))


@pytest.mark.parametrize("mutate", [drop_a_page, shift_positions, zero_attention])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_comparison_notices_a_wrong_computation(
    load: Load,
    theirs: Callable[[str], Text],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    mutate: Callable[[pytest.MonkeyPatch, LocalBackend], None],
) -> None:
    mutate(monkeypatch, load(family))
    assert ours(load(family)).differs(theirs(family))


@pytest.mark.parametrize("family", [family for family in FAMILIES if "sliding_window" in FAMILIES[family]])
def test_the_comparison_notices_a_window_that_is_ignored(
    load: Load, theirs: Callable[[str], Text], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    forget_the_window(monkeypatch, load(family))
    assert ours(load(family)).differs(theirs(family))
