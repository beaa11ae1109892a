"""The meter in two lines where the terminal is too narrow for the pane, in one where it is narrower still."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Sparkline, Static

from app import figures
from app.tui import readings
from engine.protocol import Metered

SPARK = 12


class MeterStrip(Vertical):
    """Speed, context, memory; compute by phase and the next token's cost. Hidden until it is metered."""

    DEFAULT_CSS = """
    MeterStrip {
        height: 2; padding: 0 1; background: $surface; color: $mull-muted; display: none;
        &.-metered { display: block; }
        & > Horizontal { height: 1; }
        & Static { height: 1; width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
        & #rate { width: auto; color: $foreground; text-style: bold; }
        & Sparkline { height: 1; width: 12; margin: 0 2; }
        & Sparkline > .sparkline--max-color { color: $mull-effort; }
        & Sparkline > .sparkline--min-color { color: $mull-rule; }
        &.-short { height: 1; }
        &.-short > #second { display: none; }
        &.-short Sparkline { width: 6; margin: 0 1; }
    }
    """

    sample: reactive[Metered | None] = reactive(None)
    rates: reactive[tuple[float, ...]] = reactive(())

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Static(id="rate")
            yield Sparkline([])
            yield Static(id="first")
        yield Static(id="second")

    def on_mount(self) -> None:
        self.watch_sample()

    def on_resize(self) -> None:
        self.set_class(self.app.size.width < 80, "-short")
        self.watch_sample()

    def watch_rates(self) -> None:
        if self.is_mounted:
            self.query_one(Sparkline).data = list(self.rates[-SPARK:])

    def watch_sample(self) -> None:
        if not self.is_mounted:
            return
        self.set_class(self.sample is not None, "-metered")
        self.query_one("#rate", Static).update(Content(readings.speed(self.sample)))
        self.query_one("#first", Static).update(self._short() if self.has_class("-short") else self._first())
        self.query_one("#second", Static).update(self._second())

    def _short(self) -> Content:
        left = ("context left", readings.context_left(self.sample))
        return _labelled(self._warned() or left, ("memory", self._used()))

    def _first(self) -> Content:
        prefill = ("prefill", readings.prefill_speed(self.sample))
        context = self._warned() or ("context", readings.context(self.sample))
        return self._fitting(
            len(readings.speed(self.sample)) + SPARK + 4,
            _labelled(prefill, context, ("memory", self._used() + self._kinds())),
            _labelled(prefill, context, ("memory", self._used())),
        )

    def _warned(self) -> Content | None:
        """The warning that takes the place of the context's figures."""
        warning = readings.context_warning(self.sample)
        return Content.styled(warning, "bold $warning") if warning else None

    def _second(self) -> Content:
        sample = self.sample
        arithmetic, moved, roofline = readings.next_token(sample)
        phases = [figures.UNKNOWN] * 3
        if sample is not None:
            spent = (sample.flops_prefill, sample.flops_thinking, sample.flops_answer)
            phases = [figures.amount(value, "FLOP") for value in spent]
        compute = (("prefill", phases[0]), ("think", phases[1]), ("answer", phases[2]))
        if budgets := readings.budgets(sample):
            return self._fitting(
                0,
                _labelled(*(("budget", spent) for _, spent, _ in budgets), *compute),
                _labelled(*(("budget", spent) for _, spent, _ in budgets)),
                _labelled(("budget", max(budgets, key=lambda one: one[2])[1])),
            )
        if sample is None:
            return _labelled(*compute, ("next token", figures.UNKNOWN))
        return self._fitting(
            0,
            _labelled(*compute, ("next token", f"{arithmetic}  {moved}  {roofline}")),
            _labelled(*compute, ("next", f"{arithmetic} {roofline}")),
            _labelled(*compute, ("next", arithmetic)),
        )

    def _fitting(self, taken: int, *lines: Content) -> Content:
        """The first of these that fits beside what takes some of the width, else the shortest."""
        room = self.size.width - 2 - taken
        return next((line for line in lines if line.cell_length <= room), lines[-1])

    def _kinds(self) -> str:
        if self.sample is None:
            return ""
        share = readings.memory(self.sample)
        return f" (weights {figures.size(share.weights)}, KV {figures.size(share.kv)})"

    def _used(self) -> str:
        if self.sample is None:
            return figures.UNKNOWN
        share = readings.memory(self.sample)
        used = figures.size(share.used)
        return used if share.total is None else f"{used} of {figures.size(share.total)}"


def _labelled(*parts: tuple[str, str] | Content) -> Content:
    """Values with their labels, and what is written already, side by side."""
    written = [
        part
        if isinstance(part, Content)
        else Content.assemble((f"{part[0]} ", "$mull-muted"), (part[1], "$foreground"))
        for part in parts
    ]
    return Content("  ").join(written)
