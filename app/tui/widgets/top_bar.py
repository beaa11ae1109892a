"""The first line: which model runs on what, and what the engine is doing."""

from __future__ import annotations

from pathlib import PurePath

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from app import figures
from app.sanitise import clean_line
from app.tui import bars
from engine.protocol import Loading, ModelInfo

BAR_WIDTH = 12


class TopBar(Horizontal):
    """Calm: it is the only place that shows the loading of the model."""

    DEFAULT_CSS = """
    TopBar {
        height: 1; dock: top; padding: 0 1; background: $surface;
        & > #model { width: 1fr; height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        & > #state { width: auto; margin: 0 0 0 2; height: 1; color: $mull-muted; text-wrap: nowrap; }
    }
    """

    wanted: reactive[str] = reactive("")
    """The model as it was asked for, until it is loaded."""
    model: reactive[ModelInfo | None] = reactive(None)
    progress: reactive[Loading | None] = reactive(None)
    state: reactive[str] = reactive("")
    warning: reactive[str] = reactive("")

    def compose(self) -> ComposeResult:
        yield Static(id="model")
        yield Static(id="state")

    def on_mount(self) -> None:
        self._show()

    def on_resize(self) -> None:
        self._show()

    def watch_wanted(self) -> None:
        self._show()

    def watch_model(self) -> None:
        self._show()

    def watch_progress(self) -> None:
        self._show()

    def watch_state(self) -> None:
        self._show()

    def watch_warning(self) -> None:
        self._show()

    def _show(self) -> None:
        if not self.is_mounted:
            return
        self.query_one("#model", Static).update(self._model_text())
        self.query_one("#state", Static).update(self._state_text())

    def _model_text(self) -> Content:
        if self.model is None:
            return Content.assemble(("mull", "bold $mull-effort"), "  ", (short_name(self.wanted), "bold"))
        profile = clean_line(self.model.profile or self.model.device)  # says so if simulated
        details = [f"{_short_count(self.model.parameters)} parameters"] if self.size.width >= 60 else []
        details += [clean_line(self.model.weights), profile]
        return Content.assemble(
            ("mull", "bold $mull-effort"), "  ", (short_name(self.model.name), "bold"),
            (" · " + " · ".join(details), "$mull-muted"),
        )  # fmt: skip

    def _state_text(self) -> Content:
        loading = self.progress
        if loading is None:
            warning = Content.styled(self.warning, "bold $warning")
            return Content(" · ").join(part for part in (warning, Content(self.state)) if part)
        parts: list[str | tuple[str, str] | Content] = [clean_line(loading.stage)]
        if loading.total and loading.done is not None:
            if self.size.width >= 60:
                parts += [" ", bars.progress(loading.done / loading.total, BAR_WIDTH)]
            parts += [f" {figures.size(loading.done)} / {figures.size(loading.total)}"]
        return Content.assemble(*parts)


def _short_count(parameters: int) -> str:
    """A model's size: `6.4 M`, `4 B`."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= factor:
            return f"{parameters / factor:.3g} {unit}"
    return str(parameters)


def short_name(model: str) -> str:
    """A model's name without the folders before it; a repository keeps its owner."""
    name = clean_line(model)
    return PurePath(name).name if name.startswith(("/", "~", ".")) else name
