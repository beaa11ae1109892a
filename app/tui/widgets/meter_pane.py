"""The meter beside the transcript: speed, memory, context and compute of the running answer."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Sparkline, Static

from app import figures
from app.tui import readings
from app.tui.bars import progress, stacked
from engine.protocol import Metered

WIDTH = 30
"""Characters inside the pane's padding; its style sheet says the same."""

Line = Content | str | tuple[str, str]


def row(label: str, value: str) -> Content:
    """A label at the left, its value at the right."""
    return Content.assemble((label, "$mull-muted"), " " * max(1, WIDTH - len(label) - len(value)), value)


def heading(text: str, value: str = "") -> Content:
    """The title of a part, with its main value at the right."""
    return Content.assemble((text, "bold"), " " * max(1, WIDTH - len(text) - len(value)), value)


class MeterPane(VerticalScroll, can_focus=False):
    """All readings, one below the other."""

    DEFAULT_CSS = """
    MeterPane {
        width: 34; height: 1fr; padding: 1 1 0 2; background: $surface; scrollbar-size-vertical: 0;
        & > Vertical { height: auto; margin: 0 0 1 0; }
        & Static { height: auto; width: 1fr; }
        & Sparkline { height: 1; width: 1fr; margin: 0; }
        & Sparkline > .sparkline--max-color { color: $mull-effort; }
        & Sparkline > .sparkline--min-color { color: $mull-rule; }
    }
    """

    sample: reactive[Metered | None] = reactive(None)
    rates: reactive[tuple[float, ...]] = reactive(())

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(id="speed")
            yield Sparkline([], id="spark")
            yield Static(id="rates")
        for part in ("budget", "memory", "context", "answer", "next"):
            with Vertical(id=f"part-{part}"):
                yield Static(id=part)

    def on_mount(self) -> None:
        self.watch_sample()

    def watch_rates(self) -> None:
        if self.is_mounted:
            self.query_one(Sparkline).data = list(self.rates[-WIDTH:])

    def watch_sample(self) -> None:
        if not self.is_mounted:
            return
        self._put("speed", heading("speed", readings.speed(self.sample)))
        self._put("rates", *self._rate_lines())
        budget = self._budget_lines()
        self.query_one("#part-budget").display = bool(budget)
        self._put("budget", *budget)
        self._put("memory", *self._memory_lines())
        self._put("context", *self._context_lines())
        self._put("answer", *self._answer_lines())
        self._put("next", *self._next_lines())

    def _put(self, part: str, *lines: Content) -> None:
        self.query_one(f"#{part}", Static).update(Content("\n").join(lines))

    def _rate_lines(self) -> list[Content]:
        lines = [row("prefill", readings.prefill_speed(self.sample))]
        if self.sample is not None and self.sample.cached_tokens:
            lines.append(row("cached", f"{figures.count(self.sample.cached_tokens)} tok"))
        if guesses := readings.guesses(self.sample):
            lines.append(row("guesses right", guesses))
        return lines

    def _budget_lines(self) -> list[Content]:
        """What is spent of each limit; nothing where there is none."""
        lines = []
        for name, spent, share in readings.budgets(self.sample):
            lines += [heading(f"budget, {name}"), row("", spent), progress(share, WIDTH)]
        return lines

    def _memory_lines(self) -> list[Content]:
        if self.sample is None:
            return [heading("memory", figures.UNKNOWN)]
        share = readings.memory(self.sample)
        total = (
            figures.size(share.used)
            if share.total is None
            else f"{figures.size(share.used)} of {figures.size(share.total)}"
        )
        parts = [
            (float(share.weights), "$mull-weights"),
            (float(share.kv), "$mull-kv"),
            (float(share.other or 0), "$mull-other"),
        ]
        return [
            heading(share.name, total),
            stacked(parts, share.total or max(share.used, share.weights + share.kv), WIDTH),
            self._share("█", "$mull-weights", "weights", figures.size(share.weights)),
            self._share("▓", "$mull-kv", "KV cache", figures.size(share.kv)),
            self._share(
                "▒",
                "$mull-other",
                "other",
                figures.UNKNOWN if share.other is None else figures.size(share.other),
            ),
        ]

    def _share(self, glyph: str, color: str, label: str, value: str) -> Content:
        return Content.assemble(
            (glyph, color),
            " ",
            row(label, value)[: len(label)],
            " " * max(1, WIDTH - 2 - len(label) - len(value)),
            value,
        )

    def _context_lines(self) -> list[Content]:
        sample = self.sample
        if sample is None:
            return [heading("context", figures.UNKNOWN)]
        lines = [
            heading("context", readings.context(sample)),
            progress(sample.context_used / max(1, sample.context_limit), WIDTH),
            row("left", f"{readings.context_left(sample)} tok"),
        ]
        if warning := readings.context_warning(sample):
            lines.append(Content.styled(warning, "bold $warning"))
        return lines

    def _answer_lines(self) -> list[Content]:
        sample = self.sample
        total = None if sample is None else sample.flops_prefill + sample.flops_thinking + sample.flops_answer
        return [
            heading("this answer", readings.flops(total)),
            row("prefill", readings.flops(None if sample is None else sample.flops_prefill)),
            row("thinking", readings.flops(None if sample is None else sample.flops_thinking)),
            row("answer", readings.flops(None if sample is None else sample.flops_answer)),
        ]

    def _next_lines(self) -> list[Content]:
        arithmetic, moved, roofline = readings.next_token(self.sample)
        return [
            heading("next token"),
            row("compute", arithmetic),
            row("memory traffic", moved),
            row("roofline", roofline),
        ]
