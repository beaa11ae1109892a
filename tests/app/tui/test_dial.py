"""Thoughts on the screen, and the dial of how much an answer may think."""

from __future__ import annotations

import msgspec
from chat_driver import answers, ask, chat, said, settle, text_of
from textual.widgets import Static

from engine.protocol import AnswerNow, Budgeted, Limit, More, measured


async def test_thoughts_are_live_then_one_line_and_ctrl_o_shows_hides_and_cycles_them(kit) -> None:
    app = kit.app(
        [
            kit.started(),
            kit.think("first\nsecond"),
            kit.hold,
            kit.say("2"),
            kit.finished("2", "first\nsecond"),
        ]
    )
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        block = answers(app)[0].thinking
        kit.clock.seconds += 2.5
        await settle(pilot)
        head = text_of(block.query_one("#head", Static))
        assert "40/512" in head and "2.5s" in head and "^T answer now" in head
        assert "second" in text_of(block.query_one("#thoughts", Static))
        kit.engine.release()
        await settle(pilot)
        thoughts = block.query_one("#thoughts", Static)
        assert "Thought for 40 tokens · 1.4s" in text_of(block.query_one("#head", Static))
        assert not thoughts.display
        await pilot.press("ctrl+o")
        assert thoughts.display and text_of(thoughts) == "first\nsecond"
        await pilot.press("ctrl+o")
        assert not block.display
        await pilot.press("ctrl+o")
        assert block.display and not thoughts.display
    assert kit.remembered["show_thinking"] == "line"


async def test_thoughts_that_the_reader_opened_stay_open_when_the_answer_begins(kit) -> None:
    app = kit.app(
        [
            kit.started(),
            kit.think("first\nsecond"),
            kit.hold,
            kit.say("2"),
            kit.finished("2", "first\nsecond"),
        ]
    )
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("ctrl+o")
        kit.engine.release()
        await settle(pilot)
        assert answers(app)[0].thinking.query_one("#thoughts", Static).display


async def test_tokens_put_into_the_models_mouth_are_not_counted_as_its_own(kit) -> None:
    forced = msgspec.structs.replace(kit.think("so the answer is", tokens=6), forced=True)
    app = kit.app([kit.started(), kit.think(), forced, kit.hold])
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        block = answers(app)[0].thinking
        assert "so the answer is" in text_of(block.query_one("#thoughts", Static))
        assert "40/512" in text_of(block.query_one("#head", Static))


async def test_shift_tab_cycles_the_dial_and_f3_f4_and_their_aliases_step_it(kit) -> None:
    app = kit.app()
    async with app.run_test() as pilot:
        await pilot.pause()
        seen = []
        for key in (
            "f3",
            "ctrl+down",
            "alt+minus",
            "f3",
            "f3",
            "f4",
            "ctrl+up",
            "shift+tab",
            "shift+tab",
            "shift+tab",
        ):
            await pilot.press(key)
            seen.append(chat(app).effort.think)
    assert seen == [512, 128, 32, "off", "off", 32, 128, 512, "max", "off"]
    assert kit.remembered["think"] == "off"


async def test_the_dial_is_turned_by_the_mouse(kit) -> None:
    app = kit.app()
    async with app.run_test() as pilot:
        await pilot.pause()
        buttons = chat(app).effort_line.query("DialButton")
        await pilot.click(buttons.first())
        assert chat(app).effort.think == 512
        await pilot.click(buttons.last())
        assert chat(app).effort.think == "max"


async def test_while_an_answer_thinks_f3_and_f4_move_its_own_budget(kit) -> None:
    app = kit.app([kit.started(128), kit.think(), kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("f4")
        assert answers(app)[0].thinking.limit == 512
        await pilot.press("f3", "ctrl+down")
        assert answers(app)[0].thinking.limit == 32
        assert chat(app).effort.think == "max", "the next answer's budget stays"
    assert kit.engine.controls[:3] == [More(tokens=384), More(tokens=-384), More(tokens=-96)]


async def test_a_running_budget_is_raised_to_what_the_context_allows_and_no_further(kit) -> None:
    app = kit.app([kit.started(512, room=700), kit.think(), kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("f4", "f4")
        assert answers(app)[0].thinking.limit == 700
        assert [notice.message for notice in app._notifications] == [
            "This answer may already think as much as the context allows; ^T ends it."
        ]
    assert [control for control in kit.engine.controls if isinstance(control, More)] == [More(tokens=188)]


async def test_a_budget_that_the_engine_does_not_grant_is_not_shown_for_long(kit) -> None:
    sample = kit.metered(thinking_limit=128)
    app = kit.app([kit.started(128), kit.think(), sample, kit.hold, sample, kit.hold, sample, kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("f4")
        shown = []
        for _ in range(2):
            kit.engine.release()
            await settle(pilot)
            shown.append(answers(app)[0].thinking.limit)
        assert shown == [512, 128], "the first sample may be from before the engine heard of it"


async def test_ctrl_t_ends_the_thinking(kit) -> None:
    app = kit.app([kit.started(), kit.think(), kit.hold, kit.say("2"), kit.finished("2")])
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("ctrl+t")
        await settle(pilot)
        assert said(answers(app)[0]) == "2"
    assert kit.engine.controls == [AnswerNow()]


async def test_a_budget_for_the_whole_answer_is_set_shown_sent_and_remembered(kit) -> None:
    state = Budgeted(limit=Limit("s", 30.0), spent=measured(12.0, "s", "clock"))
    script = [kit.started(), kit.think("first"), kit.metered(budget=(state,)), kit.hold, *kit.complete()]
    app = kit.app(script)
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await ask(pilot, "/budget 30s, 2 ktok")
        dial = text_of(app.screen.query_one("#dial", Static))
        assert "30s, 2 ktok" in dial
        assert kit.remembered["budget"] == "30s, 2 ktok"
        await ask(pilot)
        assert "12.0s of 30.0s" in text_of(app.screen.query_one("#budget", Static))
        assert kit.engine.requests[-1].budget == (Limit("s", 30.0), Limit("tok", 2000.0))
        kit.engine.release()
        await settle(pilot)
        await ask(pilot, "/budget off")
        assert "30s" not in text_of(app.screen.query_one("#dial", Static))


async def test_a_budget_that_is_none_is_told_and_changes_nothing(kit) -> None:
    app = kit.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await ask(pilot, "/budget 5 parsecs")
        [note] = app._notifications
        assert "parsecs" in note.title
        assert chat(app).effort.budget == ""


async def test_a_method_is_set_shown_and_sent(kit) -> None:
    app = kit.app(kit.complete())
    async with app.run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await ask(pilot, "/method vote:5")
        assert "vote:5" in text_of(app.screen.query_one("#dial", Static))
        await ask(pilot)
        assert kit.engine.requests[-1].method == "vote:5"
