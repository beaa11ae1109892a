"""What is written: lines, history, commands, and the prompts that an empty screen offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_driver import answers, ask, chat, said, settle, text_of, type_at_once
from textual import events
from textual.widgets import Static

from app.tui.screens.help import HelpScreen
from app.tui.screens.receipt import ReceiptScreen
from app.tui.widgets.user_turn import UserTurn
from app.tui.widgets.welcome import Welcome

# The prompt and its commands


async def test_ctrl_j_starts_a_new_line_and_enter_sends_all_of_them(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await pilot.press("a", "ctrl+j", "b", "enter")
        await settle(pilot)
    assert kit.engine.requests[0].messages[0].content == "a\nb"


async def test_up_and_down_at_the_edges_go_through_what_was_sent_and_back_to_the_draft(kit) -> None:
    app = kit.app(kit.complete("2"), kit.complete("3"))
    async with app.run_test() as pilot:
        await ask(pilot, "one")
        await ask(pilot, "two")
        prompt = chat(app).prompt
        await pilot.press("d")
        seen = []
        for key in ("up", "up", "up", "down", "down", "down"):
            await pilot.press(key)
            seen.append(prompt.text)
        assert seen == ["two", "one", "one", "two", "d", "d"]


async def test_a_long_paste_is_sent_whole_and_shown_by_its_beginning(kit) -> None:
    text = "\n".join(f"line {number}" for number in range(500))
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot, text)
        assert "and 470 lines more" in text_of(chat(app).query_one(UserTurn))
    assert kit.engine.requests[0].messages[0].content == text


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
async def test_pasted_lines_are_written_not_sent_and_enter_sends_them_as_they_are(kit, newline: str) -> None:
    text = "".join(f"{number:02d} " + 96 * "x" + "\n" for number in range(50))
    assert len(text) == 5000
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await pilot.press("a")
        app.post_message(events.Paste(text.replace("\n", newline)))
        await pilot.pause()
        assert chat(app).prompt.text == "a" + text
        assert kit.engine.requests == []
        await pilot.press("enter")
        await settle(pilot)
    assert kit.engine.requests[0].messages[0].content == "a" + text


async def test_whitespace_is_not_sent(kit) -> None:
    app = kit.app()
    async with app.run_test() as pilot:
        await pilot.press("space", "enter")
        await pilot.pause()
    assert kit.engine.requests == []


async def test_slash_commands_complete_and_run(kit) -> None:
    app = kit.app()
    async with app.run_test() as pilot:
        await pilot.pause()
        await pilot.press("slash", "t", "h")
        completion = chat(app).completion
        assert completion.is_open and completion.current == "/think "
        await pilot.press("down")
        assert completion.current == "/theme "
        await pilot.press("up", "tab")
        assert chat(app).prompt.text == "/think "
        await pilot.press("o", "enter")
        await pilot.pause()
        assert chat(app).effort.think == "off"
        assert not completion.is_open


async def test_completions_say_what_each_choice_does(kit) -> None:
    app = kit.app()
    async with app.run_test(size=(100, 30)) as pilot:
        for line, first, second in (
            ("/think ", "answer at once", "think as long as"),
            ("/theme ", "light text", "dark text"),
            ("/export ", "to read", "for programs"),
        ):
            chat(app).prompt.replace_text(line)
            await pilot.pause()
            options = [str(option.prompt) for option in chat(app).completion.options]
            assert first in options[0] and second in options[1]


async def test_help_names_no_key_that_a_plain_terminal_sends_as_another(kit) -> None:
    app = kit.app()
    async with app.run_test(size=(100, 60)) as pilot:
        await pilot.press("f1")
        await pilot.pause()
        shown = "\n".join(text_of(part) for part in app.screen.query(".key").results(Static))
        assert "shift+enter" in shown and "alt+enter" not in shown


async def test_esc_closes_the_completions_and_keeps_the_text(kit) -> None:
    app = kit.app()
    async with app.run_test() as pilot:
        await pilot.press("slash", "escape")
        assert not chat(app).completion.is_open and chat(app).prompt.text == "/"


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("/thnik 3", "there is no command /thnik"),
        ("/think much", "/think much: give off, max or a number of tokens"),
        ("/new now", "/new takes nothing after it"),
        ("/export pdf x", "/export takes md or json, and a file"),
        ("/export md x.md", "there is nothing to export yet"),
        ("/theme pink", "/theme takes dark or light or ansi"),
    ],
)
async def test_a_wrong_slash_command_says_what_is_wrong(kit, line: str, title: str) -> None:
    app = kit.app()
    async with app.run_test() as pilot:
        await ask(pilot, line)
        assert [notice.title for notice in app._notifications] == [title]


async def test_think_takes_a_number_and_the_choice_is_remembered(kit) -> None:
    app = kit.app()
    async with app.run_test() as pilot:
        await ask(pilot, "/think 1,300")
        assert chat(app).effort.think == 1300
    assert kit.remembered == {"think": 1300}


async def test_retry_receipt_help_meter_theme_and_quit_work_as_commands(kit) -> None:
    app = kit.app(kit.complete("first"), kit.complete("second"))
    async with app.run_test(size=(130, 30)) as pilot:
        await ask(pilot)
        await ask(pilot, "/retry")
        assert [said(answer) for answer in answers(app)] == ["second"]
        for line, screen in (("/receipt", ReceiptScreen), ("/help", HelpScreen)):
            await ask(pilot, line)
            assert isinstance(app.screen, screen)
            await pilot.press("escape")
        await ask(pilot, "/meter")
        assert not chat(app).query_one("MeterPane").display
        await pilot.press("f9")
        assert chat(app).query_one("MeterPane").display
        await ask(pilot, "/theme light")
        assert app.theme == "mull-light"
        await ask(pilot, "/quit")
        assert app._exit
    assert kit.remembered == {"meter": True, "theme": "mull-light"}


async def test_export_writes_the_conversation_and_over_a_file_only_when_forced(kit, tmp_path: Path) -> None:
    app = kit.app(kit.complete("It is 2"))
    target = tmp_path / "chat.md"
    async with app.run_test() as pilot:
        await ask(pilot)
        await ask(pilot, f"/export md {target}")
        assert "It is 2" in target.read_text()
        target.write_text("mine")
        await ask(pilot, f"/export md {target}")
        assert target.read_text() == "mine"
        await ask(pilot, f"/export md {target} --force")
        assert "It is 2" in target.read_text()


async def test_ctrl_n_begins_a_new_conversation_and_keeps_the_old_one(kit) -> None:
    app = kit.app([kit.started(), kit.say("half"), kit.hold], kit.complete("2"))
    async with app.run_test() as pilot:
        await ask(pilot, "first")
        await pilot.press("ctrl+n")
        await settle(pilot)
        assert chat(app).query(Welcome) and not answers(app)
        await ask(pilot, "second")
    assert [message.content for message in kit.engine.requests[1].messages] == ["second"]
    assert sorted(summary.name for summary in kit.store.summaries()) == ["first", "second"]


async def test_the_palette_offers_the_commands(kit) -> None:
    app = kit.app()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+p")
        await pilot.press(*"show thoughts".replace(" ", ""))
        await pilot.pause(0.5)
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert chat(app).thoughts == "full"


async def test_keys_that_arrive_in_a_burst_are_taken_in_their_order(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await pilot.pause()
        type_at_once(app, "1 + 1")
        app.post_message(events.Key("enter", "\r"))
        app.post_message(events.Key("x", "x"))
        await settle(pilot)
        assert chat(app).prompt.text == "x"
    assert kit.engine.requests[0].messages[0].content == "1 + 1"


# The empty screen


@pytest.mark.parametrize("keys", [("2", "enter"), ("down", "down", "enter"), ("up", "up", "enter")])
async def test_a_starter_is_chosen_by_keyboard(kit, keys: tuple[str, ...]) -> None:
    app = kit.app(kit.complete("9"))
    async with app.run_test() as pilot:
        await pilot.press(*keys)
        await settle(pilot)
        assert not chat(app).query(Welcome)
    assert kit.engine.requests[0].messages[0].content == kit.starters[1].prompt


async def test_a_starter_is_chosen_by_mouse(kit) -> None:
    app = kit.app(kit.complete("9"))
    async with app.run_test() as pilot:
        await pilot.click(chat(app).query("OfferLine").last())
        await settle(pilot)
    assert kit.engine.requests[0].messages[0].content == kit.starters[2].prompt


async def test_a_prompt_that_only_begins_with_a_digit_is_an_ordinary_prompt(kit) -> None:
    app = kit.app(kit.complete("3"))
    async with app.run_test() as pilot:
        await ask(pilot, "1 + 2")
    assert kit.engine.requests[0].messages[0].content == "1 + 2"


async def test_the_empty_screen_says_what_the_model_can_do_and_how_to_get_another(kit) -> None:
    app = kit.app()
    async with app.run_test():
        welcome = chat(app).query_one(Welcome)
        assert "demonstration model" in text_of(welcome.query_one("#about", Static))
        assert "mull --model PATH|REPO" in text_of(welcome.query_one("#real", Static))
