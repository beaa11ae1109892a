"""Figures read as a person would write them, and what is unknown says so."""

from collections.abc import Callable

import msgspec
import pytest

from app import figures
from engine.protocol import Answer, Quantity, derived, measured, modelled, unavailable


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (derived(23e12, "FLOP", ""), "23 TFLOP ◐"),
        (measured(4100, "J", ""), "4.1 kJ ●"),
        (modelled(0.35, "J", "", 0.2, 0.5), "350 mJ ○"),
        (Quantity(value=18.44e12, unit="FLOP", method="apportioned"), "18 TFLOP ◐"),
        (measured(86.6, "tok/s", ""), "86.6 t/s ●"),
        (measured(0.417, "tok/s", ""), "0.42 t/s ●"),
        (measured(8 * 2**30, "B", ""), "8.0 GiB ●"),
        (measured(240e9, "B/s", ""), "240 GB/s ●"),
        (derived(0.431, "1", ""), "43.1 % ◐"),
        (measured(241, "W", ""), "241 W ●"),
        (measured(17.94, "s", ""), "17.9s ●"),
        (measured(0.045, "s", ""), "45ms ●"),
        (measured(125.4, "s", ""), "2m05s ●"),
        (measured(3725, "s", ""), "1h02m ●"),
    ],
)
def test_a_figure_is_rounded_and_carries_the_mark_of_its_method(figure: Quantity, text: str) -> None:
    assert figures.quantity(figure) == text


def test_a_figure_never_rounds_up_to_a_thousand_of_its_prefix() -> None:
    assert figures.amount(999.6, "J") == "1.0 kJ"
    assert figures.amount(999.7e9, "FLOP") == "1.0 TFLOP"
    assert figures.amount(1023.9 * 2**20, "B") == "1.0 GiB"
    assert figures.amount(59.96, "s") == "60.0s"
    assert figures.amount(0.0996, "s") == "0.1s"


def test_unknown_is_not_available_and_zero_is_zero() -> None:
    assert figures.quantity(unavailable("J", "no counter")) == "n/a"
    assert figures.quantity(derived(0, "FLOP", "")) == "0 FLOP ◐"


@pytest.mark.parametrize(
    ("cached", "restored", "text"),
    [(1280, 0, " · 1,280 cached · "), (1280, 1216, " · 1,280 cached (1,216 from disk) · ")],
)
def test_a_receipt_line_says_what_was_cached_and_whence(
    make_answer: Callable[..., Answer], cached: int, restored: int, text: str
) -> None:
    answer = make_answer()
    tokens = msgspec.structs.replace(answer.receipt.tokens, cached=cached, restored=restored)
    receipt = msgspec.structs.replace(answer.receipt, tokens=tokens)
    assert text in figures.receipt_line(msgspec.structs.replace(answer, receipt=receipt))


def test_a_receipt_line_says_how_many_guesses_were_right(make_answer: Callable[..., Answer]) -> None:
    answer = make_answer()
    assert "guesses" not in figures.receipt_line(answer)
    tokens = msgspec.structs.replace(answer.receipt.tokens, draft_accepted=95, draft_rejected=25)
    receipt = msgspec.structs.replace(answer.receipt, tokens=tokens)
    line = figures.receipt_line(msgspec.structs.replace(answer, receipt=receipt))
    assert "86.6 t/s · 95 of 120 guesses right · " in line


def test_a_receipt_line_says_that_the_budget_cut_the_answer_short(
    make_answer: Callable[..., Answer],
) -> None:
    assert figures.receipt_line(make_answer(finish="budget")).endswith("· cut by the budget")
