"""The main screen's keys and messages: what a person does, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from textual import events, on, work

from app.config import ShowThinking
from app.errors import CommandError
from app.sanitise import clean, clean_line
from app.sessions.tree import Turn
from app.tui import messages
from app.tui.commands import completions
from app.tui.keymap import bindings
from app.tui.screens.chat_answers import ChatAnswers
from app.tui.screens.chat_layout import SHOWN_TURNS
from app.tui.services import Services
from app.tui.slash import run_slash
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.offer import Offer
from app.tui.widgets.transcript import is_typing
from app.tui.widgets.ways_out import WaysOut
from app.tui.widgets.welcome import Welcome
from engine.protocol import AnswerNow, Think

QUIT_WITHIN_S = 1.0

NEXT_VIEW: dict[ShowThinking, ShowThinking] = {"hidden": "line", "line": "full", "full": "hidden"}


class ChatScreen(ChatAnswers):
    """Every key and every message of the main screen."""

    BINDINGS = bindings("anywhere")

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._quit_asked = float("-inf")

    # The transcript

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
        if self.live is None:
            self.shown_turns += SHOWN_TURNS
            await self.show_path()
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
                await self._to_sibling(self._answer_to(turn), -1 if event.action == "previous" else +1)
            case "receipt":
                self.show_receipt(self._answer_to(turn))
            case "help":
                self.action_help()

    def _answer_to(self, turn: Turn) -> Turn:
        """The answer below a prompt; any other turn, and a prompt without an answer, is itself."""
        below = (other for other in self.conversation.path if other.parent == turn.id)
        return next(below, turn) if turn.role == "user" else turn

    async def _to_sibling(self, turn: Turn, step: int) -> None:
        if self.live is not None:
            self.notify("An answer is running: esc stops it.")
        elif self.conversation.to_sibling(turn.id, step):
            await self.show_path()
            variants = {other.id for other in self.conversation.recorder.tree.siblings(turn.id)}
            self.transcript.selected = next(t.id for t in self.conversation.path if t.id in variants)
        else:
            self.notify("There is no other variant in that direction; r makes one.")

    @on(messages.TranscriptLeft)
    def _leave_transcript(self, event: messages.TranscriptLeft) -> None:
        event.stop()
        self.set_focus(self.prompt)

    def redirect(self, event: events.Event) -> None:
        """Let what is typed over the transcript go to the prompt.

        Called before the event is handed to what has the focus: so the first letter takes all others with it.
        """
        if self.is_current and self.focused is self.transcript and is_typing(event):
            self.set_focus(self.prompt)

    # The prompt

    @on(messages.PromptSubmitted)
    async def _submit(self, event: messages.PromptSubmitted) -> None:
        event.stop()
        text = event.text
        if text.startswith("/") and "\n" not in text and not text.startswith("//"):
            self.prompt.sent(text)
            await run_slash(self, text)
            return
        offer = self.offer
        if offer is not None and (index := offer.numbered(text)) is not None:
            await self._take(offer, index)
        else:
            await self.send(text)

    @on(messages.PromptEdited)
    def _offer_completions(self, event: messages.PromptEdited) -> None:
        event.stop()
        choices = [choice for choice in completions(event.text) if choice[0] != event.text]
        self.completion.show(choices)
        self.prompt.completing = bool(choices)
        if (offer := self.offer) is not None:
            offer.chosen = offer.numbered(event.text)

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
        if text is None:  # typed to its end meanwhile
            if event.run:
                self.prompt.submit()
            return
        self.prompt.replace_text(text)
        self.prompt.focus()
        if event.run and not text.endswith(" "):
            self.prompt.submit()

    # What is offered to choose from

    @on(messages.OfferMoved)
    def _move_offer(self, event: messages.OfferMoved) -> None:
        event.stop()
        if (offer := self.offer) is not None:
            offer.move(event.direction)

    @on(messages.OfferTaken)
    async def _take_offered(self, event: messages.OfferTaken) -> None:
        event.stop()
        if (offer := self.offer) is not None:
            await self._take(offer, offer.chosen if event.index is None else event.index)

    async def _take(self, offer: Offer, index: int | None) -> None:
        match offer:
            case Welcome() if prompt := offer.prompt_at(index):
                await self.send(prompt)
            case WaysOut() if way := offer.way_at(index):
                await self.take_way_out(way)

    # The dial

    def set_think(self, think: Think) -> None:
        """Set how much the next answer may think, and remember it."""
        self.effort = replace(self.effort, think=think)
        self.services.remember("think", think)

    def action_settle(self) -> None:
        """Allow the next answers what the last one needed."""
        answer = self.conversation.last_answer
        settling = answer.settling if answer is not None else None
        if settling is None or settling.budget is None:
            self.notify("Where the last answer settled is not known.")
        else:
            self.set_think(settling.budget or "off")
            allowed = f"up to {settling.budget:,} tokens" if settling.budget else "off"
            self.notify(f"Thinking is {allowed} from now on.")

    def set_budget(self, budget: str) -> None:
        """Set what the whole of the next answer may spend, empty for no limit, and remember it."""
        self.effort = replace(self.effort, budget=budget)
        self.services.remember("budget", budget)

    def set_method(self, method: str) -> None:
        """Set how the next answer is found, empty for what follows from the thinking, and remember it."""
        self.effort = replace(self.effort, method=method)
        self.services.remember("method", method)

    @on(messages.DialTurned)
    async def _turn_dial(self, event: messages.DialTurned) -> None:
        event.stop()
        await self._change_budget(event.direction)

    async def _change_budget(self, direction: int) -> None:
        """The running answer's budget while it thinks, else the next answer's."""
        live = self.live
        if live is None or not live.thinking:
            self.set_think((self.effort.more() if direction > 0 else self.effort.less()).think)
        elif more := live.change_budget(direction, self.effort):
            await self.conversation.control(live.asked, more)
        elif direction > 0:
            self.notify("This answer may already think as much as the context allows; ^T ends it.")

    async def action_think_more(self) -> None:
        await self._change_budget(+1)

    async def action_think_less(self) -> None:
        await self._change_budget(-1)

    def action_cycle_think(self) -> None:
        self.set_think(self.effort.cycled().think)

    def action_preview(self) -> None:
        text = self.prompt.text.strip()
        if text and not text.startswith("/"):
            self.preview(text)
        else:
            self.notify("Write a question first: the preview is of that.")

    @work(group="preview", exclusive=True)
    async def preview(self, question: str) -> None:
        """Show what each method would cost for this; answer with the one that is chosen."""
        from app.tui.screens.preview import PreviewScreen

        events = self.conversation.preview(question, self.limits)
        way = await self.app.push_screen_wait(PreviewScreen(question, events))
        if way is not None:
            self.prompt.clear()
            await self.send(question, way)

    async def action_answer_now(self) -> None:
        if self.live is not None and self.live.thinking:
            await self.conversation.control(self.live.asked, AnswerNow())

    def action_thoughts(self) -> None:
        self.thoughts = NEXT_VIEW[self.thoughts]
        self.services.remember("show_thinking", self.thoughts)
        for view in self.query(AnswerTurn):
            view.set_view(self.thoughts)

    @on(messages.ThoughtsToggled)
    def _toggle_thoughts(self, event: messages.ThoughtsToggled) -> None:
        event.stop()
        self.action_thoughts()

    # Leaving things

    async def action_leave(self) -> None:
        if self.completion.is_open:
            self.completion.show([])
            self.prompt.completing = False
        elif self.live is not None:
            await self.stop_or_abort()
        elif not self.prompt.text and self.transcript.turns:
            self.transcript.focus()

    async def action_interrupt(self) -> None:
        selection = self.prompt.selected_text or self.get_selected_text()
        if selection:
            self.copy(selection)
            self.clear_selection()
            self.prompt.move_cursor(self.prompt.cursor_location)
        elif self.live is not None:
            await self.stop_or_abort()
        elif self.prompt.text:
            self.prompt.clear()
        elif self.services.clock() - self._quit_asked <= QUIT_WITHIN_S:
            await self.app.action_quit()
        else:
            self._quit_asked = self.services.clock()
            self.notify("ctrl+c again within 1 s quits.", timeout=QUIT_WITHIN_S)

    async def action_quit(self) -> None:
        await self.app.action_quit()

    # Everything else

    @work(group="new", exclusive=True)
    async def action_new(self) -> None:
        await self.begin_anew()

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
        self.call_after_refresh(self.show_warning)
        self.services.remember("meter", self.meter)

    def set_theme(self, name: str) -> None:
        """Use this theme, and remember it."""
        self.app.theme = name
        self.services.remember("theme", name)

    def export(self, form: str, file: str, *, force: bool = False) -> None:
        """Write the conversation to a file, over one that is there only with `force`. Raises CommandError."""
        from app.sessions import export

        session = self.conversation.recorder.session
        if form not in export.FORMATS or not file:
            raise CommandError(
                f"/export takes {' or '.join(export.FORMATS)}, and a file", "as in /export md chat.md"
            )
        if session is None:
            raise CommandError("there is nothing to export yet")
        export.write(export.render(session, form), Path(file), force=force)
        self.notify(f"Written to {clean_line(file)}", markup=False)

    def copy(self, text: str) -> None:
        """To the clipboard, by the terminal's own escape sequence, which also works over ssh."""
        shown = clean(text)
        self.app.copy_to_clipboard(shown)
        self.notify(f"Copied {len(shown):,} characters.", timeout=2)
