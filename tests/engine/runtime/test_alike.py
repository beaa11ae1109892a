"""Rows of several sequences are attended to at once, by a kernel or without, and get what each gets alone."""

from collections.abc import Callable

import numpy as np
import pytest
from random_checkpoint import prompt

from engine.nn import attention
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PAGE
from engine.runtime.runner import Row
from engine.runtime.sequence import Sequence
from engine.runtime.step import ALIKE

LENGTHS = (3, PAGE - 1, PAGE, 17, 40, PAGE + 1, 2 * PAGE - 1, PAGE + 30, 2 * PAGE, (ALIKE + 1) * PAGE, 5)
"""Tokens that lie in the pages: of one page, of two, and one row of more than are taken at once."""


@pytest.mark.parametrize("by_kernel", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_each_row_gets_what_it_gets_alone(
    load: Callable[[str], LocalBackend], family: str, by_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = load(family).runner
    storage = runner.pool.storage
    storage.memory.fill_(float("nan"))  # as memory may be that nobody has written to
    calls: list[int] = []
    real = attention._at_once
    monkeypatch.setattr(
        attention, "_at_once", lambda group, *rest: (calls.append(len(group.rows)), real(group, *rest))
    )
    kernel = storage.attention
    assert kernel is not None, "these tests need a C compiler"
    kernel_calls: list[int] = []
    counted = lambda tokens, *rest: (kernel_calls.append(len(tokens)), kernel(tokens, *rest))[1]  # noqa: E731
    monkeypatch.setattr(storage, "attention", counted if by_kernel else None)
    sequences = []
    for number, length in enumerate(LENGTHS):
        held = Sequence(runner.pool)
        # no two begin alike: nothing is shared
        held.ids = [5 + number, *prompt(length - 1)]
        runner.run([Row(held, held.ids)])
        sequences.append(held)
    alone = []
    for held in sequences:
        runner.run([Row(held, [7])])
        alone.append(np.array(held.logits))
        held.cached -= 1
    runner.run([Row(held, [7]) for held in sequences])
    for held, expected in zip(sequences, alone, strict=True):
        np.testing.assert_allclose(held.logits, expected, atol=2e-4)
        held.release(sound=False)
    if by_kernel:
        assert set(kernel_calls) == {len(LENGTHS)} and not calls
    elif family == "qwen3":  # a window is for each row by itself
        assert calls and set(calls) == {5, 4}
    runner.pool.check_integrity([])
