"""Going through the conversation: moving, copying, variants, scrolling, resuming."""

from __future__ import annotations

from chat_driver import answers, ask, chat, said, settle, text_of, type_at_once
from textual import events

from app.tui.screens.help import HelpScreen
from app.tui.screens.receipt import ReceiptScreen
from app.tui.widgets.failure import Failure
from app.tui.widgets.receipt_line import ReceiptLine


async def test_in_the_transcript_keys_move_copy_and_show_the_receipt(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("escape")
        transcript = chat(app).transcript
        assert transcript.selected == answers(app)[0].turn_id
        await pilot.press("y")
        assert app.clipboard == "2"
        await pilot.press("k", "y")
        assert app.clipboard == "What is 1+1?"
        await pilot.press("j", "i")
        await pilot.pause()
        assert isinstance(app.screen, ReceiptScreen)
        await pilot.press("escape", "question_mark")
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape", "escape")
        assert chat(app).prompt.has_focus


async def test_j_and_k_scroll_a_receipt_line_by_line_however_fast_they_come(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await ask(pilot, "/receipt")
        for key in "jjjjjk":
            app.post_message(events.Key(key, key))
        await settle(pilot)
        assert app.screen.query_one("#receipt").scroll_y == 4


async def test_typing_in_the_transcript_goes_back_to_the_prompt(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("escape", "W", "h", "y")
        assert chat(app).prompt.has_focus and chat(app).prompt.text == "Why"


async def test_a_burst_of_typing_in_the_transcript_is_in_the_prompt_whole(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("escape")
        type_at_once(app, "export foo")
        await settle(pilot)
        assert chat(app).prompt.text == "export foo" and chat(app).prompt.has_focus


async def test_commands_before_a_burst_of_typing_are_done_and_paste_is_written(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot)
        await pilot.press("escape")
        type_at_once(app, "kyexport")
        app.post_message(events.Paste(" foo"))
        await settle(pilot)
        assert chat(app).prompt.text == "export foo"
        assert app.clipboard == "What is 1+1?"


async def test_on_a_prompt_the_keys_for_an_answer_act_on_the_one_below_it(kit) -> None:
    app = kit.app(kit.complete("first"), kit.complete("second"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("escape", "r")
        await settle(pilot)
        for key, text in (("left_square_bracket", "first"), ("right_square_bracket", "second")):
            await pilot.press("escape", "g", key)
            await settle(pilot)
            assert [said(answer) for answer in answers(app)] == [text]
            chat(app).prompt.focus()
        await pilot.press("escape", "g", "i")
        await pilot.pause()
        assert isinstance(app.screen, ReceiptScreen)


async def test_r_makes_a_variant_and_brackets_go_through_them(kit) -> None:
    app = kit.app(kit.complete("first"), kit.complete("second"))
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("escape", "r")
        await settle(pilot)
        assert [said(answer) for answer in answers(app)] == ["second"]
        await pilot.press("escape", "left_square_bracket")
        await pilot.pause()
        assert [said(answer) for answer in answers(app)] == ["first"]
        assert "1/2" in answers(app)[0].query_one(ReceiptLine).text
        await pilot.press("right_square_bracket")
        await pilot.pause()
        assert [said(answer) for answer in answers(app)] == ["second"]


async def test_the_reader_who_scrolls_up_is_left_alone_and_told_of_new_text(kit) -> None:
    long = "\n\n".join(f"paragraph {number}" for number in range(30))
    script = [kit.started(), kit.say(long), kit.hold, kit.say("\n\nmore"), kit.hold, kit.finished(long, "")]
    app = kit.app(script)
    async with app.run_test(size=(80, 24)) as pilot:
        await ask(pilot)
        transcript = chat(app).transcript
        assert transcript.follows and transcript.scroll_y == transcript.max_scroll_y > 0
        transcript.scroll_to(y=5, animate=False)
        await pilot.pause()
        kit.engine.release()
        await settle(pilot)
        assert transcript.scroll_y == 5
        assert chat(app).pill.display
        await pilot.click(chat(app).pill)
        await pilot.pause()
        assert transcript.follows and not chat(app).pill.display


async def test_a_long_conversation_shows_its_last_turns_and_brings_back_the_others(kit) -> None:
    kit.record(*((f"question {number}", f"answer {number}") for number in range(9)))
    app = kit.app(kit.complete("2"), resume="last")
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        assert [said(answer) for answer in answers(app)] == [f"answer {number}" for number in range(3, 9)]
        transcript = chat(app).transcript
        transcript.scroll_home(animate=False)
        await pilot.pause()
        await pilot.click(chat(app).query_one("EarlierTurns"))
        await pilot.pause()
        assert len(transcript.turns) == 18
        await ask(pilot)
        await settle(pilot)
        assert [said(answer) for answer in answers(app)][-3:] == ["answer 7", "answer 8", "2"]
        assert len(transcript.turns) == 13, "a new question lets the old ones go again"


async def test_a_resumed_conversation_is_shown_as_it_was_and_goes_on(kit) -> None:
    app = kit.app(kit.complete("2"), [kit.started(), kit.say("hal"), kit.failed()])
    async with app.run_test() as pilot:
        await ask(pilot)
        await ask(pilot, "and 2+2?")
    app = kit.app(kit.complete("4"), resume="last")
    async with app.run_test() as pilot:
        await settle(pilot)
        assert [said(answer) for answer in answers(app)] == ["2", "hal"]
        assert "went away" in text_of(answers(app)[1].query_one(Failure))
        await ask(pilot, "go on")
        assert said(answers(app)[-1]) == "4"
        assert kit.engine.requests[0].messages[0].content == "What is 1+1?"
