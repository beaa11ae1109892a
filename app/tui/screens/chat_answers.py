"""The main screen while answers run: loading the model, asking, following, stopping."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from importlib import import_module

from textual import work
from textual.timer import Timer
from textual.worker import Worker

from app.errors import CommandError
from app.sanitise import clean_line
from app.sessions.tree import Turn
from app.tui.full_context import WayOut, effect
from app.tui.live_answer import LiveAnswer
from app.tui.screens.chat_layout import ERROR_S, SHOWN_TURNS, ChatLayout
from app.tui.services import Services
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.failure import Failure
from app.tui.widgets.user_turn import UserTurn
from engine.protocol import Cancel, Event, Failed, Limit, Loaded, Loading, Metered, Overflow, Started
from engine.protocol.budget import parse_limits
from engine.protocol.preview import PreviewRow

FRAMES_PER_SECOND = 13
"""How often arriving text is drawn: fast enough to read along, and the processor is left to the engine."""
RATES_KEPT = 60
STOP_PATIENCE_S = 2.0
"""How long the end of a stopped answer is waited for before the app goes on without it."""


class ChatAnswers(ChatLayout):
    """Runs one answer at a time."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self.live: LiveAnswer | None = None
        self._answering: Worker[None] | None = None
        self._loading: Worker[None] | None = None
        self._settling: Worker[None] | None = None
        self._frames: Timer | None = None

    def on_mount(self) -> None:
        self._frames = self.set_interval(1 / FRAMES_PER_SECOND, self._draw, pause=True)
        if warnings := self.services.warnings:
            text = "\n".join(clean_line(warning) for warning in warnings)
            self.notify(text, severity="warning", markup=False, timeout=ERROR_S)
        self.call_after_refresh(self.load_model)

    def load_model(self) -> None:
        """Get the model into memory, in the background, and meanwhile what the first answer needs."""
        self.run_worker(partial(import_module, "app.tui.widgets.streamed_markdown"), thread=True)
        if not self._loads:
            self._loading = self._load()

    @property
    def _loads(self) -> bool:
        """Whether this screen is getting the model into memory."""
        return self._loading is not None and not self._loading.is_finished

    @work(group="load", exit_on_error=False)
    async def _load(self) -> None:
        for failure in self.transcript.query("Failure.-loading"):
            await failure.remove()
        async with aclosing(self.conversation.load()) as events:
            async for event in events:
                self._observe(event)
                if isinstance(event, Failed) and self.live is None:
                    failure = Failure(classes="-loading")
                    await self.transcript.add(failure)
                    failure.show(event.message, event.hint)

    async def _tell_of_overflow(self, event: Event) -> None:
        """What a full context means for the rest of the screen."""
        match event:
            case Started(turns_left_out=names, summary=summary):
                await self.transcript.mark_left_out(names, summary is not None)
            case Failed(code="overflow"):
                self.prompt.offering = True

    def _observe(self, event: Event) -> None:
        """What an event means for the screen as a whole."""
        match event:
            case Loading():
                self.top.progress = event
            case Loaded(model=model):
                self.model = model
                self.top.model, self.top.progress = model, None
                self.effort = replace(self.effort, steps=model.think_steps)
                self.effort_line.can_think = model.thinking_format is not None
            case Started():
                self.rates = ()
            case Metered():
                self.sample = event
                if event.decode_tok_s is not None:
                    self.rates = (*self.rates, event.decode_tok_s)[-RATES_KEPT:]
            case _:
                self.top.progress = None
        self._show_activity()

    def _show_activity(self) -> None:
        live = self.live
        self.activity = "" if live is None else "stopping" if live.stopping else live.view.state
        self.show_state()

    async def send(self, text: str, way: PreviewRow | None = None) -> None:
        """Ask this, as a preview had it or as is set; while an answer runs it stays in the prompt."""
        if self.live is not None:
            self.notify("An answer is running: esc stops it. Your text stays here.")
            self.prompt.take_back(text)
            return
        try:
            question = self.conversation.say(text)
        except CommandError as error:
            self.report(error)
            self.prompt.take_back(text)
            return
        self.prompt.sent(text)
        for widget in self.transcript.query("Offer, Failure.-loading"):
            await widget.remove()
        self.prompt.offering = False
        await self.transcript.add(UserTurn(question.id, question.content))
        await self.begin_answer(way)

    async def retry(self, turn: Turn) -> None:
        """Answer the question of this turn again, beside the answers there are."""
        if self.live is not None:
            self.notify("An answer is running: esc stops it.")
        elif self.conversation.back_to_question(turn.id):
            await self.show_path()
            self.prompt.focus()
            await self.begin_answer()

    async def begin_anew(self) -> None:
        """Stop what runs, leave the conversation as it is and show an empty one."""
        await self.end_answer()
        self.stop_settling()
        self.conversation.start_anew()
        self.shown_turns = SHOWN_TURNS
        self.sample, self.rates = None, ()
        await self.show_path()
        self.prompt.focus()

    def set_overflow(self, overflow: Overflow) -> None:
        """Choose what happens to this conversation when the context is full."""
        self.conversation.overflow = overflow
        self.notify(effect(overflow), timeout=ERROR_S)

    async def take_way_out(self, way: WayOut) -> None:
        """Have the question that did not fit answered in this way."""
        *_, question, failed = self.conversation.path
        if way == "new":
            await self.begin_anew()
            await self.send(question.content)
        else:
            self.set_overflow(way)
            await self.retry(failed)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What the whole of the next answer may spend."""
        return parse_limits([self.effort.budget] if self.effort.budget else [])

    async def begin_answer(self, way: PreviewRow | None = None) -> None:
        """Have the turn where the conversation is answered, below what is shown of it."""
        if len(self.transcript.turns) > SHOWN_TURNS:
            self.shown_turns = SHOWN_TURNS
            await self.show_path()
        think = "off" if self.model is not None and self.model.thinking_format is None else self.effort.think
        try:
            asked = self.conversation.ask(
                way.think if way else think,
                way.method if way else self.effort.method or None,
                self.limits,
            )
        except CommandError as error:
            self.report(error)
            return
        self.stop_settling()
        view = AnswerTurn(asked.turn.id)
        await self.transcript.add(view)
        view.set_view(self.thoughts)
        view.wait_for("waiting for the model; the answer follows" if self.model is None else "waiting")
        self.live = LiveAnswer(view, asked, self.conversation.place(asked.turn), self.services.clock)
        self._answering = self._follow(self.live)
        assert self._frames is not None
        self._frames.resume()
        self._show_activity()

    @work(group="answer", exit_on_error=False)
    async def _follow(self, live: LiveAnswer) -> None:
        try:
            async with aclosing(self.conversation.answer(live.asked)) as events:
                async for event in events:
                    await live.take(event)
                    await self._tell_of_overflow(event)
                    if not (isinstance(event, Loading) and self._loads):  # the load tells more of itself
                        self._observe(event)
        except asyncio.CancelledError:
            live.view.break_off()
            raise
        finally:
            self.live = None
            assert self._frames is not None
            self._frames.pause()
            self._show_activity()
        self._settling = self._settle(live)

    @work(group="settling", exclusive=True, exit_on_error=False)
    async def _settle(self, live: LiveAnswer) -> None:
        """While nothing else is to be done, find where the thought settled."""
        settling = await self.conversation.settling(live.asked)
        if settling is not None and live.view.is_attached:
            live.view.settle(settling)

    def stop_settling(self) -> None:
        """Something else is to be done."""
        if self._settling is not None:
            self._settling.cancel()

    async def _draw(self) -> None:
        live = self.live
        if live is not None and await live.flush() and not self.transcript.follows:
            self.pill.add_class("-shown")

    async def end_answer(self) -> None:
        """Stop the running answer and wait a little for its receipt."""
        live, answering = self.live, self._answering
        if live is None or answering is None:
            return
        await self._stop(live)
        try:
            await asyncio.wait_for(answering.wait(), STOP_PATIENCE_S)
        except Exception:  # it did not end by itself, or it failed and has said so
            answering.cancel()

    async def _stop(self, live: LiveAnswer) -> None:
        live.stopping = True
        self._show_activity()
        await self.conversation.control(live.asked, Cancel())

    async def stop_or_abort(self) -> None:
        """Ask the running answer for its end; asked a second time, do not wait for it."""
        if self.live is None or self._answering is None:
            return
        if self.live.stopping:
            self._answering.cancel()
        else:
            await self._stop(self.live)
