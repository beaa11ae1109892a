"""The main screen's parts and what they show at rest. Knows no running answer."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.getters import query_one
from textual.reactive import reactive, var
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from app.config import ShowThinking
from app.errors import CommandError
from app.sanitise import clean_line
from app.tui import readings
from app.tui.conversation import Conversation
from app.tui.effort import Effort
from app.tui.services import Services
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.completion_list import CompletionList
from app.tui.widgets.earlier_turns import EarlierTurns
from app.tui.widgets.effort_line import EffortLine
from app.tui.widgets.meter_pane import MeterPane
from app.tui.widgets.meter_strip import MeterStrip
from app.tui.widgets.new_pill import NewPill
from app.tui.widgets.offer import Offer
from app.tui.widgets.prompt import Prompt
from app.tui.widgets.top_bar import TopBar
from app.tui.widgets.transcript import Transcript
from app.tui.widgets.user_turn import UserTurn
from app.tui.widgets.welcome import Welcome
from engine.protocol import Metered, ModelInfo

SHOWN_TURNS = 12
"""Turns kept on the screen: each redraw lays all of them out."""

ERROR_S = 6.0
"""How long an error or a warning is shown."""

HINTS_IDLE = (
    "enter send · ^J new line · shift+tab think · esc browse · F1 help",
    "enter send · ^J new line · F1 help",
    "F1 help",
)
HINTS_EMPTY = (
    "↓ or a number, then enter: try one · shift+tab think · F1 help",
    "↓ or a number: try one · F1 help",
    "F1 help",
)
HINTS_OFFER = (
    "↓ or a number, then enter: choose · esc browse · F1 help",
    "↓ or a number: choose · F1 help",
    "F1 help",
)
HINTS_RUNNING = ("esc stop · ^T answer now · ^O thoughts · F1 help", "esc stop · ^T answer now", "esc stop")
HINTS_TRANSCRIPT = (
    "j k move · y copy · r retry · [ ] variants · i receipt · ? help · esc back",
    "y copy · r retry · i receipt · esc back",
    "esc back",
)

_WIDTHS = [(0, "-narrow"), (80, "-normal"), (120, "-wide")]
_HEIGHTS = [(0, "-low"), (16, "-high")]


class ChatLayout(Screen[None]):
    """The conversation, the dial, the meter, the prompt."""

    CSS_PATH = "chat.tcss"
    HORIZONTAL_BREAKPOINTS = _WIDTHS
    VERTICAL_BREAKPOINTS = _HEIGHTS
    AUTO_FOCUS = "Prompt"

    top = query_one(TopBar)
    transcript = query_one(Transcript)
    prompt = query_one(Prompt)
    completion = query_one(CompletionList)
    effort_line = query_one(EffortLine)
    pill = query_one(NewPill)

    effort: var[Effort] = var(Effort())
    thoughts: var[ShowThinking] = var("line")
    meter: var[bool] = var(True)
    sample: reactive[Metered | None] = reactive(None)
    rates: reactive[tuple[float, ...]] = reactive(())

    def __init__(self, services: Services) -> None:
        super().__init__()
        self.services = services
        self.conversation = Conversation(
            services.new_recorder, services.resumed, services.engine, services.settings
        )
        self.model: ModelInfo | None = None
        self.shown_turns = SHOWN_TURNS
        self.activity = ""
        """What the running answer is doing; empty while none runs."""
        settings = services.settings
        effort = Effort(settings.think, (), settings.method or "", settings.budget or "")
        self.set_reactive(ChatLayout.effort, effort)
        self.set_reactive(ChatLayout.thoughts, services.settings.show_thinking)
        self.set_reactive(ChatLayout.meter, services.meter)

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Horizontal(id="middle"):
            with Vertical(id="conversation"):
                yield Transcript()
                yield NewPill()
            yield MeterPane().data_bind(ChatLayout.sample, ChatLayout.rates)
        yield MeterStrip().data_bind(ChatLayout.sample, ChatLayout.rates)
        yield CompletionList()
        with Horizontal(id="entry"):
            yield Static(Content("❯"), id="mark")
            yield Prompt(blink=self.services.blink)
        yield EffortLine()

    def on_mount(self) -> None:
        self.top.wanted = self.conversation.spec.model
        self.effort_line.effort = self.effort
        self.set_class(not self.meter, "-meter-off")
        self.call_after_refresh(self.show_path)  # the prompt is there first

    async def show_path(self) -> None:
        """Draw the conversation as far as it goes, its last turns only."""
        path = self.conversation.path
        shown = path[-self.shown_turns :]
        widgets: list[Widget] = []
        if len(path) > len(shown):
            widgets.append(EarlierTurns(len(path) - len(shown)))
        for turn in shown:
            if turn.role == "user":
                widgets.append(UserTurn(turn.id, turn.content))
            else:
                widgets.append(AnswerTurn(turn.id, turn.content))
        if not path:
            widgets.append(Welcome(self.conversation.spec.model, self.services.starters))
        self.prompt.offering = not path and bool(self.services.starters)
        self.prompt.remember([turn.content for turn in path if turn.role == "user"])
        await self.transcript.put(*widgets)
        for turn in shown:
            view = self.transcript.turn(turn.id)
            if isinstance(view, AnswerTurn):
                view.set_view(self.thoughts)
                await view.restore(turn, self.conversation.place(turn))
        if last := self.conversation.last_answer:
            left_out = last.receipt.state.turns_left_out
            await self.transcript.mark_left_out(left_out, last.summary is not None)
        self.pill.remove_class("-shown")
        self.show_state()

    def show_state(self) -> None:
        """Say what is going on, and which keys matter now."""
        self.top.state = self.activity or ("ready" if self.model is not None else "")
        if self.transcript.has_focus:
            self.effort_line.hints = HINTS_TRANSCRIPT
        elif self.activity:
            self.effort_line.hints = HINTS_RUNNING
        elif self.prompt.offering:
            self.effort_line.hints = HINTS_OFFER if self.transcript.turns else HINTS_EMPTY
        else:
            self.effort_line.hints = HINTS_IDLE

    @property
    def offer(self) -> Offer | None:
        """What there is to choose from."""
        return next(iter(self.query(Offer)), None)

    def watch_effort(self, effort: Effort) -> None:
        if self.is_mounted:
            self.effort_line.effort = effort

    def watch_sample(self) -> None:
        self.call_after_refresh(self.show_warning)

    def on_resize(self) -> None:
        self.call_after_refresh(self.show_warning)

    def show_warning(self) -> None:
        """Warn of a context that is nearly full where the meter, which does so by itself, is not shown."""
        metered = any(meter.display for meter in self.query("MeterPane, MeterStrip"))
        self.top.warning = "" if metered else readings.context_warning(self.sample)

    def on_descendant_focus(self) -> None:
        self.show_state()

    def report(self, error: CommandError) -> None:
        """Tell what went wrong and what to do next."""
        self.notify(
            clean_line(error.hint) or " ",
            title=clean_line(error.message),
            severity="error",
            markup=False,
            timeout=ERROR_S,
        )
