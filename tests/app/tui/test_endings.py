"""Stopping, leaving and failing lose nothing, and what went wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_driver import answers, ask, chat, said, session, settle, text_of
from textual.widgets._toast import Toast

from app.tui.widgets.failure import Failure
from app.tui.widgets.receipt_line import ReceiptLine
from engine.protocol import Cancel

# Stopping and leaving


async def test_esc_stops_an_answer_and_keeps_what_was_said(kit) -> None:
    app = kit.app([kit.started(), kit.say("half of "), kit.hold])
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("escape")
        await settle(pilot)
        assert said(answers(app)[0]) == "half of "
        assert "stopped" in answers(app)[0].query_one(ReceiptLine).text
    assert kit.engine.controls == [Cancel()]
    assert [turn.status for turn in session(kit).tree] == ["complete", "stopped"]


async def test_a_second_esc_does_not_wait_for_an_engine_that_hangs(kit) -> None:
    app = kit.app([kit.started(), kit.say("half"), kit.hold])
    async with app.run_test() as pilot:
        kit.engine.ignore_cancel()
        await ask(pilot)
        await pilot.press("escape", "escape")
        await settle(pilot)
        assert chat(app).live is None
        assert "interrupted" in answers(app)[0].query_one(ReceiptLine).text


async def test_ctrl_c_stops_then_clears_then_asks_then_quits(kit) -> None:
    app = kit.app([kit.started(), kit.say("half"), kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        chat(app).prompt.replace_text("draft")
        await pilot.press("ctrl+c")
        await settle(pilot)
        assert chat(app).live is None and chat(app).prompt.text == "draft"
        await pilot.press("ctrl+c")
        assert chat(app).prompt.text == ""
        await pilot.press("ctrl+c")
        kit.clock.seconds += 1.5
        await pilot.press("ctrl+c")
        assert app._exit is False, "the second press came too late"
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert app._exit is True


async def test_ctrl_c_copies_a_selection_and_nothing_else(kit) -> None:
    app = kit.app([kit.started(), kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        chat(app).prompt.replace_text("some words")
        chat(app).prompt.action_select_all()
        await pilot.press("ctrl+c")
        assert app.clipboard == "some words"
        assert chat(app).live is not None and chat(app).prompt.text == "some words"
        await pilot.press("ctrl+c")
        await settle(pilot)
        assert chat(app).live is None, "with nothing selected any more, it stops"


async def test_ctrl_q_stops_keeps_and_lets_go_of_the_engine(kit) -> None:
    app = kit.app([kit.started(), kit.say("half"), kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("ctrl+q")
        await settle(pilot)
    assert kit.engine.closed
    assert [turn.status for turn in session(kit).tree] == ["complete", "stopped"]


# Failures


async def test_a_failure_names_cause_and_next_step_keeps_the_partial_and_r_retries(kit) -> None:
    app = kit.app([kit.started(), kit.say("hal"), kit.failed()], kit.complete("2"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        first = answers(app)[0]
        assert said(first) == "hal"
        assert "went away" in text_of(first.query_one(Failure)) and "anew" in text_of(
            first.query_one(Failure)
        )
        await pilot.press("escape", "r")
        await settle(pilot)
        (second,) = answers(app)
        assert said(second) == "2"
        assert "2/2" in second.query_one(ReceiptLine).text


@pytest.mark.parametrize("accident", [RuntimeError("boom [/"), ConnectionResetError()])
async def test_an_engine_that_breaks_its_promise_is_a_message_not_a_crash(kit, accident: Exception) -> None:
    app = kit.app([kit.started(), accident], kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot)
        assert "the engine failed" in text_of(answers(app)[0].query_one(Failure))
        await ask(pilot, "again")
        assert said(answers(app)[-1]) == "2"


async def test_a_disk_that_refuses_is_told_and_the_text_stays_in_the_prompt(kit, tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot, "precious words")
        assert chat(app).prompt.text == "precious words"
        assert any("cannot keep sessions" in notice.title for notice in app._notifications)


# Notifications


async def test_notifications_are_below_the_first_line_one_of_a_kind_and_cover_no_prompt(kit) -> None:
    app = kit.app()
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await ask(pilot, "/receipt")
        await ask(pilot, "/thnik")
        await ask(pilot, "/receipt")
        await ask(pilot, "/mteer")
        toasts = sorted(app.screen.query(Toast), key=lambda toast: toast.region.y)
        assert [text_of(toast).splitlines()[0] for toast in toasts] == [
            "There is no answer yet.",
            "there is no command /mteer",
        ]
        assert toasts[0].region.y == 1 and toasts[-1].region.bottom <= 6
        assert toasts[0].region.right >= 95


async def test_another_view_of_the_thoughts_needs_no_notification(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("ctrl+o")
        await pilot.pause()
        assert not list(app._notifications)
