"""Everything that an answer consumed: each quantity with its unit, how it was obtained, and its range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from app import figures
from app.sanitise import clean_line
from engine.protocol import Answer, Quantity, TokenCounts

SECTIONS = ("time", "compute", "speed", "memory", "energy", "cost")
_WORDS = {"itl": "between tokens", "kv": "KV", "mbu": "MBU", "mfu": "MFU", "co2": "CO2", "flops": "FLOP"}

_WIDTHS = [(0, "-narrow"), (64, "-normal")]


class ReceiptScreen(ModalScreen[None]):
    """Closed by esc, q or i."""

    CSS_PATH = "receipt.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,i", "dismiss", "Close", show=False),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]
    HORIZONTAL_BREAKPOINTS = _WIDTHS
    AUTO_FOCUS = "#receipt"

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def compose(self) -> ComposeResult:
        receipt = self._answer.receipt
        with VerticalScroll(id="receipt") as box:
            box.border_title = "Receipt"
            box.border_subtitle = "j k scroll · esc close"
            yield Static(Content(figures.LEGEND), classes="legend")
            for section in SECTIONS:
                yield Static(Content(section.capitalize()), classes="title")
                for name, quantity in quantities(getattr(receipt, section)):
                    yield QuantityRow(name, quantity)
            yield Static(Content("Tokens"), classes="title")
            for name in TokenCounts.__struct_fields__:
                yield PlainRow(words(name), figures.count(getattr(receipt.tokens, name)))
            for candidate in self._answer.candidates:
                if candidate.confidence is not None:
                    yield Static(Content("Confidence (nats)"), classes="title")
                    for name, value in msgspec.structs.asdict(candidate.confidence).items():
                        yield PlainRow(words(name), f"{value:,.3g}")
            yield Static(Content("Ran on"), classes="title")
            for name, value in msgspec.structs.asdict(receipt.environment).items():
                absent = "none" if name == "quantization" else figures.UNKNOWN
                yield PlainRow(words(name), absent if value is None else clean_line(str(value)))
            yield PlainRow("method", clean_line(self._answer.method))
            yield PlainRow("finish", figures.FINISHES[self._answer.finish] or "complete")
            yield PlainRow("counted as", clean_line(receipt.convention))
            if left_out := receipt.state.turns_left_out:
                yield PlainRow("not sent", clean_line(figures.span(left_out)))
            if self._answer.summary is not None:
                yield PlainRow("summary of it", clean_line(self._answer.summary.text))
            for what in (*receipt.state.degradations, *receipt.state.notices):
                yield PlainRow("note", clean_line(what))

    def action_scroll(self, lines: int) -> None:
        self.query_one("#receipt").scroll_relative(y=lines, animate=False, immediate=True)


def words(name: str) -> str:
    """A field's name as words."""
    return " ".join(_WORDS.get(word, word) for word in name.removesuffix("_tok_s").split("_"))


def quantities(part: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, Quantity]]:
    """All quantities below a part of a receipt, with their names."""
    for field in part.__struct_fields__:
        value = getattr(part, field)
        if isinstance(value, Quantity):
            yield f"{prefix}{words(field)}", value
        elif isinstance(value, msgspec.Struct):
            yield from quantities(value, f"{words(field)}, ")


class PlainRow(Horizontal):
    """A name and what it is."""

    def __init__(self, label: str, value: str) -> None:
        super().__init__(Static(Content(label), classes="label"), Static(Content(value)))


class QuantityRow(Horizontal):
    """A quantity's name, its value with its mark, and how it was obtained or why it is not known."""

    def __init__(self, label: str, quantity: Quantity) -> None:
        super().__init__(
            Static(Content(label), classes="label"),
            Static(Content(figures.quantity(quantity)), classes="value"),
            Static(Content(explanation(quantity)), classes="told"),
        )
        self.set_class(quantity.value is None, "-unknown")


def explanation(quantity: Quantity) -> str:
    """How it was obtained, the range in which it is expected, and the reasons."""
    parts: list[str] = [quantity.method if quantity.value is not None else ""]
    if quantity.source:
        parts.append(clean_line(quantity.source))
    if quantity.low is not None and quantity.high is not None:
        low, high = (figures.amount(value, quantity.unit) for value in (quantity.low, quantity.high))
        parts.append(f"{low} to {high}")
    parts += [clean_line(reason) for reason in quantity.reasons]
    return " · ".join(part for part in parts if part)
