"""A conversation that outgrows the context: the warning, the choice, and what was left out, on the screen."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from chat_driver import ask, said, settle, text_of
from textual.widgets import Static

from app.cli.engine import open_engine
from app.config import Settings
from app.sessions.recorder import Recorder
from app.sessions.store import Store
from app.tui.app import MullApp
from app.tui.services import Services
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.failure import Failure
from app.tui.widgets.left_out import LeftOut
from app.tui.widgets.offer import OfferLine
from app.tui.widgets.receipt_line import ReceiptLine
from app.tui.widgets.user_turn import UserTurn
from app.tui.widgets.ways_out import WaysOut
from engine.client import ResidentEngine
from engine.protocol import Failed, Finished, Metered, Notice, Summary

QUESTION = "What is 1+1?"
TOO_LONG = Failed(
    code="overflow",
    message="the conversation takes 4,072 tokens, which leaves too little of the context's 4,096",
    hint="drop its oldest turns or summarize them (--overflow drop|summarize), or begin a new one",
)
EARLIER = (("one", "first"), ("two", "second"), ("three", "third"))
LEFT_OUT = ("t1", "t2", "t3", "t4")
SUMMARY = Summary(text="They counted to two.", turns=LEFT_OUT)


async def press(pilot, *keys: str) -> None:
    await pilot.press(*keys)
    await settle(pilot)


def without(kit, turns: tuple[str, ...], summary: Summary | None = None) -> list:
    """An answer that was given without these turns."""
    started = kit.started(turns_left_out=turns, summary=summary)
    answer = kit.answer("2", "")
    state = msgspec.structs.replace(answer.receipt.state, turns_left_out=turns)
    receipt = msgspec.structs.replace(answer.receipt, state=state)
    return [started, Finished(answer=msgspec.structs.replace(answer, receipt=receipt, summary=summary))]


def dimmed(app: MullApp) -> list[str]:
    return [turn.turn_id for turn in app.chat.transcript.turns if turn.has_class("-left-out")]


# The meter


def metered(kit, used: int) -> Metered:
    return kit.metered(context_used=used, context_limit=1000)


@pytest.mark.parametrize(
    ("size", "place"),
    [((160, 45), "MeterPane #context"), ((100, 30), "MeterStrip #first"), ((60, 30), "MeterStrip #first")],
)
async def test_from_four_fifths_on_the_meter_warns(kit, size: tuple[int, int], place: str) -> None:
    app = kit.app([kit.started(), metered(kit, 799), kit.hold, metered(kit, 835), kit.hold])
    async with app.run_test(size=size) as pilot:
        await ask(pilot)
        shown = app.chat.query_one(place, Static)
        assert "full" not in text_of(shown)
        kit.engine.release()
        await settle(pilot)
        assert "context 83 % full" in text_of(shown)
        assert app.chat.top.warning == "", "once is enough"


async def test_a_meter_that_is_not_shown_leaves_the_warning_to_the_first_line(kit) -> None:
    app = kit.app([kit.started(), metered(kit, 835), kit.hold])
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        for size, keys, warning in (
            ((100, 30), ["f9"], "context 83 % full"),
            ((100, 30), ["f9"], ""),
            ((100, 12), [], "context 83 % full"),
        ):
            await pilot.resize_terminal(*size)
            await pilot.press(*keys)
            await pilot.pause(0.1)
            assert app.chat.top.warning == warning
        assert "context 83 % full" in text_of(app.chat.top.query_one("#state", Static))


# The choice


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (("1", "enter"), "drop"),
        (("2", "enter"), "summarize"),
        (("down", "enter"), "drop"),
        (("up", "up", "enter"), "summarize"),
    ],
)
async def test_a_full_context_is_answered_as_chosen_without_typing_again(
    kit, keys: tuple[str, ...], chosen: str
) -> None:
    app = kit.app([TOO_LONG], kit.complete("2"), kit.complete("4"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        shown = text_of(app.chat.query_one(Failure))
        assert "leaves too little of the context's 4,096" in shown and "--overflow" not in shown
        await press(pilot, *keys)
        (answer,) = app.chat.query(AnswerTurn)
        assert said(answer) == "2"
        assert not app.chat.query(WaysOut) and len(app.chat.query(UserTurn)) == 1
        (told,) = (notice.message for notice in app._notifications)
        assert "/overflow changes that here" in told and "config.toml" in told
        await ask(pilot, "And 2+2?")
    first, second, third = kit.engine.requests
    assert (first.overflow, second.overflow, third.overflow) == ("stop", chosen, chosen)
    assert [message.content for message in second.messages] == [QUESTION]


async def test_a_way_out_is_chosen_by_mouse(kit) -> None:
    app = kit.app([TOO_LONG], kit.complete("2"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.click(app.chat.query(OfferLine)[1])
        await settle(pilot)
    assert kit.engine.requests[1].overflow == "summarize"


async def test_a_new_conversation_takes_the_question_with_it_and_the_old_one_is_kept(kit) -> None:
    kit.record(*EARLIER)
    app = kit.app([TOO_LONG], kit.complete("2"), resume="last")
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await press(pilot, "3", "enter")
        assert [turn.text for turn in app.chat.transcript.turns] == [QUESTION, "2"]
    assert [message.content for message in kit.engine.requests[1].messages] == [QUESTION]
    assert kit.engine.requests[1].overflow == "stop"
    assert sorted(summary.name for summary in kit.store.summaries()) == [QUESTION, "one"]


async def test_whoever_asks_something_else_is_sent_that_and_the_offer_is_gone(kit) -> None:
    app = kit.app([TOO_LONG], kit.complete("3"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await ask(pilot, "1 + 2")
        assert not app.chat.query(WaysOut)
        await pilot.press("up")
        assert app.chat.prompt.text == "1 + 2", "the arrow keys recall again what was sent"
    assert kit.engine.requests[1].messages[0].content == "1 + 2"
    assert kit.engine.requests[1].overflow == "stop"


async def test_a_choice_holds_for_its_conversation_also_when_it_is_resumed_and_for_no_other(kit) -> None:
    app = kit.app(kit.complete("2"), kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot, "/overflow drop")
        await ask(pilot)
        await press(pilot, "ctrl+n")
        await ask(pilot, "And 2+2?")
    assert [request.overflow for request in kit.engine.requests] == ["drop", "stop"]
    (name,) = (summary.id for summary in kit.store.summaries() if summary.name == QUESTION)
    app = kit.app(kit.complete("4"), resume=name)
    async with app.run_test() as pilot:
        await ask(pilot)
    assert kit.engine.requests[0].overflow == "drop"


async def test_what_is_set_for_all_conversations_holds_from_the_first_question(kit) -> None:
    app = kit.app(kit.complete("2"), settings=Settings(overflow="summarize"))
    async with app.run_test() as pilot:
        await ask(pilot)
        await ask(pilot, "/overflow keep")
        (told,) = app._notifications
        assert told.title == "/overflow takes stop or drop or summarize"
        assert "a summary by the model stands for the oldest turns" in told.message, "what is set now"
    assert kit.engine.requests[0].overflow == "summarize"


async def test_the_palette_offers_each_choice(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+p")
        await pilot.press(*"context:summarize")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await pilot.pause(0.2)
        await ask(pilot)
    assert kit.engine.requests[0].overflow == "summarize"


# What was left out


async def test_turns_that_the_last_answer_was_not_told_of_are_dimmed_and_said_to_be(kit) -> None:
    kit.record(*EARLIER)
    app = kit.app([*without(kit, LEFT_OUT)[:1], kit.hold, *without(kit, LEFT_OUT)[1:]], resume="last")
    async with app.run_test(size=(100, 40)) as pilot:
        await ask(pilot)
        assert dimmed(app) == list(LEFT_OUT), "as soon as it has begun"
        kit.engine.release()
        await settle(pilot)
        line = app.chat.query_one(LeftOut)
        assert "4 turns above were not sent with the last answer" in text_of(line)
        assert app.chat.transcript.children[LEFT_OUT.index("t4") + 1] is line
        assert "4 turns left out" in list(app.chat.query(ReceiptLine))[-1].text
    app = kit.app(kit.complete("2"), resume="last")
    async with app.run_test(size=(100, 40)) as pilot:
        await settle(pilot)
        assert dimmed(app) == list(LEFT_OUT), "also in a conversation that is resumed"
        await ask(pilot)
        assert dimmed(app) == [] and not app.chat.query(LeftOut), "this answer was told of them"


async def test_left_out_turns_that_are_not_shown_are_told_of_above_those_that_are(kit) -> None:
    kit.record(*((f"question {number}", f"answer {number}") for number in range(9)))
    app = kit.app(without(kit, LEFT_OUT), resume="last")
    async with app.run_test(size=(100, 40)) as pilot:
        await ask(pilot)
        assert dimmed(app) == []
        children = list(app.chat.transcript.children)
        line = app.chat.query_one(LeftOut)
        assert children[children.index(line) + 1] is app.chat.transcript.turns[0]


async def test_a_summary_is_told_of_shown_in_the_receipt_and_sent_with_the_next_question(kit) -> None:
    kit.record(*EARLIER)
    told = Notice(code="summarizing", text="the context is full: summarizing the 4 oldest turns")
    script = [told, kit.hold, *without(kit, LEFT_OUT, SUMMARY)]
    app = kit.app(script, kit.complete("2"), resume="last", settings=Settings(overflow="summarize"))
    async with app.run_test(size=(100, 40)) as pilot:
        await ask(pilot)
        running = list(app.chat.query(AnswerTurn))[-1]
        assert "summarizing" in text_of(running.query_one("#wait", Static))
        assert "summarizing the 4 oldest turns" in text_of(running.query_one("#notice", Static))
        kit.engine.release()
        await settle(pilot)
        assert "4 turns above were summarized for the last answer" in text_of(app.chat.query_one(LeftOut))
        assert "4 turns summarized" in running.query_one(ReceiptLine).text
        await ask(pilot, "/receipt")
        rows = [text_of(part) for part in app.screen.query("PlainRow Static").results(Static)]
        assert rows[rows.index("not sent") + 1] == "t1 to t4"
        assert SUMMARY.text in rows
        await pilot.press("escape")
        await ask(pilot, "And 2+2?")
    assert [request.summary for request in kit.engine.requests] == [None, SUMMARY]


async def test_every_notice_of_an_answer_is_shown(kit) -> None:
    notices = [Notice(code="overflow", text="first"), Notice(code="thinking", text="second")]
    app = kit.app([kit.started(), *notices, kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        shown = text_of(app.chat.query_one(AnswerTurn).query_one("#notice", Static))
        assert shown == "! first\n! second"


# On the real engine


@pytest.fixture
async def engine() -> AsyncIterator[ResidentEngine]:
    engine = open_engine()
    yield engine
    await engine.shutdown()
    await engine.close()


async def test_a_conversation_with_the_bundled_model_outgrows_a_small_context_and_goes_on(
    engine: ResidentEngine,
) -> None:
    services = Services(
        engine=engine,
        new_recorder=Recorder.create,
        remember=lambda key, value: None,
        settings=Settings(context=256, think="off"),
        blink=False,
    )
    app = MullApp(services)

    async def say(pilot, text: str) -> AnswerTurn:
        """Send this, and wait for what becomes of it."""
        before = [turn.turn_id for turn in app.chat.query(AnswerTurn)]
        app.chat.prompt.replace_text(text)
        await pilot.press("enter")
        for _ in range(3000):
            await pilot.pause(0.02)
            last = list(app.chat.query(AnswerTurn))[-1:]
            if last and last[0].turn_id not in before and last[0].state in ("done", "failed"):
                return last[0]
        raise AssertionError("no end of it")

    async with app.run_test(size=(100, 40)) as pilot:
        for number in range(20):
            answer = await say(pilot, f"What is {number} + 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9?")
            if answer.state == "failed":
                break
        assert app.chat.query(WaysOut), text_of(answer.query_one(Failure))
        answer = await say(pilot, "1")
        assert answer.state == "done" and "turns left out" in answer.query_one(ReceiptLine).text
        assert app.chat.query(LeftOut)
    turns = list(Store().read(Store().resolve("last")).tree)
    assert turns[-1].answer is not None and turns[-1].answer.receipt.state.turns_left_out[:2] == ("t1", "t2")
    assert turns[-1].parent == turns[-2].parent, "the same question, answered again"
