"""Everything that an answer consumed: each quantity with its unit, how it was obtained, and its range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from app import figures
from app.sanitise import clean_line
from engine.protocol import Answer, Quantity, TokenCounts

SECTIONS = ("time", "compute", "speed", "memory", "energy", "cost")
_WORDS = {"itl": "between tokens", "kv": "KV", "mbu": "MBU", "mfu": "MFU", "co2": "CO2"}
NARROW = 64
"""Columns below which how a quantity was obtained stands on a line of its own."""


class ReceiptScreen(ModalScreen[None]):
    """Closed by esc, q or i."""

    CSS_PATH = "receipt.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,i", "dismiss", "Close", show=False),
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]
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
            yield Static(Content("Ran on"), classes="title")
            for name, value in msgspec.structs.asdict(receipt.environment).items():
                yield PlainRow(words(name), figures.UNKNOWN if value is None else clean_line(str(value)))
            yield PlainRow("method", clean_line(self._answer.method))
            yield PlainRow("finish", figures.FINISHES[self._answer.finish] or "complete")
            yield PlainRow("counted as", clean_line(receipt.convention))
            for what in (*receipt.state.degradations, *receipt.state.notices):
                yield PlainRow("note", clean_line(what))

    def action_scroll(self, lines: int) -> None:
        self.query_one("#receipt").scroll_relative(y=lines, animate=False)


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


class PlainRow(Static):
    """A name and a value."""

    LABEL = 24

    def __init__(self, label: str, value: str) -> None:
        super().__init__(Content.assemble((label.ljust(self.LABEL), "$mull-muted"), value))


class QuantityRow(Static):
    """A quantity: name, value with its mark, and how it was obtained or why it is not known."""

    LABEL = 24
    VALUE = 15

    def __init__(self, name: str, quantity: Quantity) -> None:
        super().__init__()
        self._label = name
        self._quantity = quantity

    def render(self) -> Content:
        """In columns where there is room, else the explanation below."""
        quantity = self._quantity
        name = Content.styled(self._label.ljust(self.LABEL), "$mull-muted")
        value = Content.styled(
            figures.quantity(quantity).ljust(self.VALUE), "$mull-muted" if quantity.value is None else "bold"
        )
        told = explanation(quantity)
        if self.size.width < NARROW:
            return Content.assemble(name, value, ("\n  " + told if told else "", "$mull-muted"))
        room = max(8, self.size.width - self.LABEL - self.VALUE)
        lines = Content.styled(told, "$mull-muted").wrap(room)
        indent = Content(" " * (self.LABEL + self.VALUE))
        heads = [Content.assemble(name, value), *[indent] * len(lines)]
        return Content("\n").join(head + line for head, line in zip(heads, lines, strict=False))


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
