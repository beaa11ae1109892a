"""The main screen: mediates between its widgets, the conversation and the engine's events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.getters import query_one
from textual.reactive import reactive, var
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import Worker

from app.config import ShowThinking
from app.errors import CommandError
from app.sanitise import clean, clean_line
from app.sessions.tree import Turn
from app.tui import messages
from app.tui.commands import completions
from app.tui.conversation import Conversation
from app.tui.effort import Effort
from app.tui.keymap import bindings
from app.tui.live_answer import LiveAnswer
from app.tui.services import Services
from app.tui.slash import run_slash
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.completion_list import CompletionList
from app.tui.widgets.earlier_turns import EarlierTurns
from app.tui.widgets.effort_line import EffortLine
from app.tui.widgets.failure import Failure
from app.tui.widgets.meter_pane import MeterPane
from app.tui.widgets.meter_strip import MeterStrip
from app.tui.widgets.new_pill import NewPill
from app.tui.widgets.prompt import Prompt
from app.tui.widgets.top_bar import TopBar
from app.tui.widgets.transcript import Transcript
from app.tui.widgets.user_turn import UserTurn
from app.tui.widgets.welcome import Welcome
from engine.protocol import AnswerNow, Cancel, Event, Failed, Loaded, Loading, Metered, ModelInfo, Think

FRAMES_PER_SECOND = 13
"""How often arriving text is drawn: fast enough to read along, and the processor is left to the engine."""
SHOWN_TURNS = 12
"""Turns kept on the screen: each redraw lays all of them out."""
RATES_KEPT = 60
STOP_PATIENCE_S = 2.0
QUIT_WITHIN_S = 1.0

HINTS_IDLE = (
    "enter send · ^J new line · shift+tab think · esc browse · F1 help",
    "enter send · ^J new line · F1 help",
    "F1 help",
)
HINTS_RUNNING = ("esc stop · ^T answer now · ^O thoughts · F1 help", "esc stop · ^T answer now", "esc stop")
HINTS_TRANSCRIPT = (
    "j k move · y copy · r retry · [ ] variants · i receipt · ? help · esc back",
    "y copy · r retry · i receipt · esc back",
    "esc back",
)
NEXT_VIEW: dict[ShowThinking, ShowThinking] = {"hidden": "line", "line": "full", "full": "hidden"}


_WIDTHS = [(0, "-narrow"), (80, "-normal"), (120, "-wide")]
_HEIGHTS = [(0, "-low"), (16, "-high")]


class ChatScreen(Screen[None]):
    """The conversation, the dial, the meter."""

    CSS_PATH = "chat.tcss"
    BINDINGS = bindings("anywhere")
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
        self._services = services
        recorder = services.resumed or services.new_recorder()
        self.conversation = Conversation(recorder, services.engine, services.settings)
        self._model: ModelInfo | None = None
        self._live: LiveAnswer | None = None
        self._answering: Worker[None] | None = None
        self._loading: Worker[None] | None = None
        self._shown_turns = SHOWN_TURNS
        self._quit_asked = float("-inf")
        self._frames: Timer | None = None
        self.set_reactive(ChatScreen.effort, Effort(services.settings.think))
        self.set_reactive(ChatScreen.thoughts, services.settings.show_thinking)
        self.set_reactive(ChatScreen.meter, services.meter)

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Horizontal(id="middle"):
            with Vertical(id="conversation"):
                yield Transcript()
                yield NewPill()
            yield MeterPane().data_bind(ChatScreen.sample, ChatScreen.rates)
        yield MeterStrip().data_bind(ChatScreen.sample, ChatScreen.rates)
        yield CompletionList()
        with Horizontal(id="entry"):
            yield Static(Content("❯"), id="mark")
            yield Prompt(blink=self._services.blink)
        yield EffortLine()

    async def on_mount(self) -> None:
        self.top.wanted = self.conversation.spec.model
        self.effort_line.effort = self.effort
        self.effort_line.hints = HINTS_IDLE
        self.set_class(not self.meter, "-meter-off")
        self._frames = self.set_interval(1 / FRAMES_PER_SECOND, self._draw, pause=True)
        await self._show_path()
        for warning in self._services.warnings:
            self.notify(clean_line(warning), severity="warning", markup=False)
        self.call_after_refresh(self.load_model)

    # Loading

    def load_model(self) -> None:
        """Get the model into memory, in the background."""
        if self._loading is None or self._loading.is_finished:
            self._loading = self._load()

    @work(group="load", exit_on_error=False)
    async def _load(self) -> None:
        for failure in self.transcript.query("Failure.-loading"):
            await failure.remove()
        async with aclosing(self.conversation.load()) as events:
            async for event in events:
                self._observe(event)
                if isinstance(event, Failed) and self._live is None:
                    failure = Failure(classes="-loading")
                    await self.transcript.add(failure)
                    failure.show(event.message, event.hint)

    def _observe(self, event: Event) -> None:
        """What an event means for the screen as a whole."""
        match event:
            case Loading():
                self.top.progress = event
            case Loaded(model=model):
                self._model = model
                self.top.model, self.top.progress = model, None
                self.effort = Effort(self.effort.think, model.think_steps)
                self.effort_line.can_think = model.thinking_format is not None
            case Metered():
                self.sample = event
                if event.decode_tok_s is not None:
                    self.rates = (*self.rates, event.decode_tok_s)[-RATES_KEPT:]
            case Failed():
                self.top.progress = None
            case _:
                self.top.progress = None
        self._show_state()

    def _show_state(self) -> None:
        live = self._live
        if live is not None:
            self.top.state = "stopping" if live.stopping else live.view.state
        else:
            self.top.state = "ready" if self._model is not None else ""
        in_transcript = self.transcript.has_focus
        self.effort_line.hints = HINTS_TRANSCRIPT if in_transcript else HINTS_RUNNING if live else HINTS_IDLE

    # Asking and answering

    @on(messages.PromptSubmitted)
    async def _submit(self, event: messages.PromptSubmitted) -> None:
        event.stop()
        text = event.text
        if text.startswith("/") and "\n" not in text and not text.startswith("//"):
            self.prompt.sent(text)
            await run_slash(self, text)
            return
        starter = self._starter(text)
        await self.send(starter or text)

    async def send(self, text: str) -> None:
        """Ask this; while an answer runs it stays in the prompt."""
        if self._live is not None:
            self.notify("An answer is running: esc stops it. Your text stays here.")
            return
        try:
            question = self.conversation.say(text)
        except CommandError as error:
            self.report(error)
            return
        self.prompt.sent(text)
        for widget in self.transcript.query("Welcome, Failure.-loading"):
            await widget.remove()
        self.prompt.offering = False
        await self.transcript.add(UserTurn(question.id, question.content))
        await self._begin_answer()

    async def _begin_answer(self) -> None:
        think = (
            "off" if self._model is not None and self._model.thinking_format is None else self.effort.think
        )
        try:
            asked = self.conversation.ask(think)
        except CommandError as error:
            self.report(error)
            return
        if len(self.transcript.turns) > SHOWN_TURNS:
            await self._show_path()
        view = AnswerTurn(asked.turn.id)
        await self.transcript.add(view)
        view.set_view(self.thoughts)
        view.wait_for(
            "waiting for the model; the answer comes as soon as it is loaded"
            if self._model is None
            else "waiting"
        )
        self._live = LiveAnswer(view, asked, self.conversation.place(asked.turn), self._services.clock)
        self._answering = self._follow(self._live)
        assert self._frames is not None
        self._frames.resume()
        self._show_state()

    @work(group="answer", exit_on_error=False)
    async def _follow(self, live: LiveAnswer) -> None:
        try:
            async with aclosing(self.conversation.answer(live.asked)) as events:
                async for event in events:
                    await live.take(event)
                    self._observe(event)
        except asyncio.CancelledError:
            live.view.break_off()
            raise
        finally:
            self._live = None
            assert self._frames is not None
            self._frames.pause()
            self._show_state()

    async def _draw(self) -> None:
        live = self._live
        if live is not None and await live.flush() and not self.transcript.follows:
            self.pill.add_class("-shown")

    async def end_answer(self) -> None:
        """Stop the running answer and wait a little for its receipt."""
        live, answering = self._live, self._answering
        if live is None or answering is None:
            return
        await self._stop(live)
        try:
            await asyncio.wait_for(answering.wait(), STOP_PATIENCE_S)
        except Exception:  # it did not end by itself, or it failed and has said so
            answering.cancel()

    async def _stop(self, live: LiveAnswer) -> None:
        live.stopping = True
        self._show_state()
        await self.conversation.control(live.asked, Cancel())

    # The transcript

    async def _show_path(self) -> None:
        """Draw the conversation as far as it goes, its last turns only."""
        path = self.conversation.path
        shown = path[-self._shown_turns :]
        widgets: list[Widget] = []
        if len(path) > len(shown):
            widgets.append(EarlierTurns(len(path) - len(shown)))
        for turn in shown:
            if turn.role == "user":
                widgets.append(UserTurn(turn.id, turn.content))
            else:
                widgets.append(AnswerTurn(turn.id, turn.content))
        if not path:
            widgets.append(Welcome(self.conversation.spec.model, self._services.starters))
        self.prompt.offering = not path and bool(self._services.starters)
        self.prompt.remember([turn.content for turn in path if turn.role == "user"])
        await self.transcript.put(*widgets)
        for turn in shown:
            view = self.transcript.turn(turn.id)
            if isinstance(view, AnswerTurn):
                view.set_view(self.thoughts)
                await view.restore(turn, self.conversation.place(turn))
        self.pill.remove_class("-shown")

    @on(messages.EndFollowed)
    def _followed(self, event: messages.EndFollowed) -> None:
        event.stop()
        if event.following:
            self.pill.remove_class("-shown")

    @on(messages.EndAsked)
    def _to_end(self, event: messages.EndAsked) -> None:
        event.stop()
        self.transcript.anchor()

    @on(messages.EarlierTurnsAsked)
    async def _show_earlier(self, event: messages.EarlierTurnsAsked) -> None:
        event.stop()
        if self._live is None:
            self._shown_turns += SHOWN_TURNS
            await self._show_path()
            self.transcript.scroll_home(animate=False)

    @on(messages.TurnActedOn)
    async def _act_on_turn(self, event: messages.TurnActedOn) -> None:
        event.stop()
        turn = self.conversation.recorder.tree[event.turn_id]
        match event.action:
            case "copy":
                self.copy(turn.content)
            case "retry":
                await self.retry(turn)
            case "previous" | "next":
                await self._to_sibling(turn, -1 if event.action == "previous" else +1)
            case "receipt":
                self.show_receipt(turn)
            case "help":
                self.action_help()

    async def retry(self, turn: Turn) -> None:
        """Answer the question of this turn again, beside the answers there are."""
        if self._live is not None:
            self.notify("An answer is running: esc stops it.")
        elif self.conversation.back_to_question(turn.id):
            await self._show_path()
            self.prompt.focus()
            await self._begin_answer()

    async def _to_sibling(self, turn: Turn, step: int) -> None:
        if self._live is not None:
            self.notify("An answer is running: esc stops it.")
        elif self.conversation.to_sibling(turn.id, step):
            await self._show_path()
            variants = {other.id for other in self.conversation.recorder.tree.siblings(turn.id)}
            self.transcript.selected = next(t.id for t in self.conversation.path if t.id in variants)
        else:
            self.notify("There is no other variant in that direction; r makes one.")

    @on(messages.TranscriptLeft)
    def _leave_transcript(self, event: messages.TranscriptLeft) -> None:
        event.stop()
        self.prompt.focus()
        if event.typed:
            self.prompt.insert(event.typed)

    def on_descendant_focus(self) -> None:
        self._show_state()

    # The prompt

    @on(messages.PromptEdited)
    def _offer_completions(self, event: messages.PromptEdited) -> None:
        event.stop()
        choices = [choice for choice in completions(event.text) if choice[0] != event.text]
        self.completion.show(choices)
        self.prompt.completing = bool(choices)
        for welcome in self.query(Welcome):
            welcome.chosen = int(event.text) - 1 if self._starter(event.text) else None

    @on(messages.CompletionMoved)
    def _move_completion(self, event: messages.CompletionMoved) -> None:
        event.stop()
        if event.direction > 0:
            self.completion.action_cursor_down()
        else:
            self.completion.action_cursor_up()

    @on(messages.CompletionChosen)
    def _complete(self, event: messages.CompletionChosen) -> None:
        event.stop()
        text = event.text or self.completion.current
        if text is None:
            return
        self.prompt.replace_text(text)
        self.prompt.focus()
        if event.run and not text.endswith(" "):
            self.post_message(messages.PromptSubmitted(text))

    @on(messages.StarterMoved)
    def _move_starter(self, event: messages.StarterMoved) -> None:
        event.stop()
        for welcome in self.query(Welcome):
            welcome.move(event.direction)

    @on(messages.StarterChosen)
    async def _choose_starter(self, event: messages.StarterChosen) -> None:
        event.stop()
        prompt = event.prompt
        for welcome in self.query(Welcome):
            prompt = prompt or welcome.prompt_at(welcome.chosen)
        if prompt:
            await self.send(prompt)

    def _starter(self, text: str) -> str | None:
        """The prompt of the empty screen that this digit stands for."""
        for welcome in self.query(Welcome):
            if text.strip().isdecimal() and len(text) < 3:
                return welcome.prompt_at(int(text) - 1)
        return None

    # The dial

    def set_think(self, think: Think) -> None:
        """Set how much the next answer may think, and remember it."""
        self.effort = Effort(think, self.effort.steps)
        self._services.remember("think", think)

    def watch_effort(self, effort: Effort) -> None:
        if self.is_mounted:
            self.effort_line.effort = effort

    @on(messages.DialTurned)
    async def _turn_dial(self, event: messages.DialTurned) -> None:
        event.stop()
        await self._change_budget(event.direction)

    async def _change_budget(self, direction: int) -> None:
        """The running answer's budget while it thinks, else the next answer's."""
        live = self._live
        if live is None or not live.thinking:
            self.set_think((self.effort.more() if direction > 0 else self.effort.less()).think)
        elif more := live.change_budget(direction, self.effort):
            await self.conversation.control(live.asked, more)
        else:
            self.notify("This answer may think as long as it likes; ^T ends it.")

    async def action_think_more(self) -> None:
        await self._change_budget(+1)

    async def action_think_less(self) -> None:
        await self._change_budget(-1)

    def action_cycle_think(self) -> None:
        self.set_think(self.effort.cycled().think)

    async def action_answer_now(self) -> None:
        if self._live is not None and self._live.thinking:
            await self.conversation.control(self._live.asked, AnswerNow())

    def action_thoughts(self) -> None:
        self.thoughts = NEXT_VIEW[self.thoughts]
        self._services.remember("show_thinking", self.thoughts)
        for view in self.query(AnswerTurn):
            view.set_view(self.thoughts)
        names = {"hidden": "Thoughts: hidden", "line": "Thoughts: one line", "full": "Thoughts: in full"}
        self.notify(names[self.thoughts], timeout=2)

    @on(messages.ThoughtsToggled)
    def _toggle_thoughts(self, event: messages.ThoughtsToggled) -> None:
        event.stop()
        self.action_thoughts()

    # Leaving things

    async def action_leave(self) -> None:
        if self.completion.is_open:
            self.completion.show([])
            self.prompt.completing = False
        elif self._live is not None:
            await self._stop_or_abort(self._live)
        elif not self.prompt.text and self.transcript.turns:
            self.transcript.focus()

    async def _stop_or_abort(self, live: LiveAnswer) -> None:
        """Ask for an end first; a second time, do not wait for it."""
        if live.stopping and self._answering is not None:
            self._answering.cancel()
        else:
            await self._stop(live)

    async def action_interrupt(self) -> None:
        selection = self.prompt.selected_text or self.get_selected_text()
        if selection:
            self.copy(selection)
            self.clear_selection()
        elif self._live is not None:
            await self._stop_or_abort(self._live)
        elif self.prompt.text:
            self.prompt.clear()
        elif self._services.clock() - self._quit_asked <= QUIT_WITHIN_S:
            await self.app.action_quit()
        else:
            self._quit_asked = self._services.clock()
            self.notify("ctrl+c again within 1 s quits.", timeout=QUIT_WITHIN_S)

    async def action_quit(self) -> None:
        await self.app.action_quit()

    # Everything else

    @work(group="new", exclusive=True)
    async def action_new(self) -> None:
        await self.end_answer()
        self.conversation.start_anew(self._services.new_recorder())
        self._shown_turns = SHOWN_TURNS
        await self._show_path()
        self.prompt.focus()

    async def action_retry(self) -> None:
        path = self.conversation.path
        if path:
            await self.retry(path[-1])
        else:
            self.load_model()

    def action_receipt(self) -> None:
        answers = [turn for turn in self.conversation.path if turn.answer is not None]
        if answers:
            self.show_receipt(answers[-1])
        else:
            self.notify("There is no answer yet.")

    def show_receipt(self, turn: Turn) -> None:
        """What this answer cost, figure by figure."""
        if turn.answer is None:
            self.notify("There is no receipt for this turn.")
            return
        from app.tui.screens.receipt import ReceiptScreen

        self.app.push_screen(ReceiptScreen(turn.answer))

    def action_help(self) -> None:
        from app.tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen())

    def action_meter(self) -> None:
        self.meter = not self.meter
        self.set_class(not self.meter, "-meter-off")
        self._services.remember("meter", self.meter)

    def set_theme(self, name: str) -> None:
        """Use this theme, and remember it."""
        self.app.theme = name
        self._services.remember("theme", name)

    def export(self, form: str, file: str) -> None:
        """Write the conversation to a file that is not there yet. Raises CommandError."""
        from app.sessions import export

        session = self.conversation.recorder.session
        if form not in export.FORMATS or not file:
            raise CommandError(
                f"/export takes {' or '.join(export.FORMATS)}, and a file", "as in /export md chat.md"
            )
        if session is None:
            raise CommandError("there is nothing to export yet")
        export.write(export.render(session, form), Path(file))
        self.notify(f"Written to {clean_line(file)}", markup=False)

    def copy(self, text: str) -> None:
        """To the clipboard, by the terminal's own escape sequence, which also works over ssh."""
        shown = clean(text)
        self.app.copy_to_clipboard(shown)
        self.notify(f"Copied {len(shown):,} characters.", timeout=2)

    def report(self, error: CommandError) -> None:
        """Tell what went wrong and what to do next."""
        self.notify(
            clean_line(error.hint) or " ",
            title=clean_line(error.message),
            severity="error",
            markup=False,
            timeout=8,
        )
