"""What a person does in the app, key by key, with an engine that follows a script."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from textual import events
from textual.widgets import Markdown, Static
from textual.widgets._toast import Toast

from app.errors import CommandError
from app.sessions.session import Session
from app.tui.app import MullApp
from app.tui.screens.chat import ChatScreen
from app.tui.screens.help import HelpScreen
from app.tui.screens.receipt import ReceiptScreen
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.failure import Failure
from app.tui.widgets.receipt_line import ReceiptLine
from app.tui.widgets.user_turn import UserTurn
from app.tui.widgets.welcome import Welcome
from engine.protocol import AnswerNow, Cancel, Failed, Finished, Loading, More, Queued


def chat(app: MullApp) -> ChatScreen:
    return app.chat


def answers(app: MullApp) -> list[AnswerTurn]:
    return list(chat(app).query(AnswerTurn))


def text_of(widget: Static) -> str:
    return str(widget.render())


def said(answer: AnswerTurn) -> str:
    return answer.body.query_one(Markdown).source


def type_at_once(app: MullApp, text: str) -> None:
    """Type faster than the app can follow."""
    for character in text:
        app.post_message(events.Key("space" if character == " " else character, character))


async def settle(pilot) -> None:
    """Wait until what the engine's script says by now is drawn."""
    await pilot.app.chat.services.engine.settle(pilot)


async def ask(pilot, text: str = "What is 1+1?") -> None:
    chat(pilot.app).prompt.focus()
    chat(pilot.app).prompt.replace_text(text)
    await pilot.press("enter")
    await settle(pilot)


def session(kit) -> Session:
    """The only session, as it is on disk."""
    (summary,) = kit.store.summaries()
    return kit.store.read(summary.id)


# Loading


async def test_the_app_paints_before_it_touches_the_engine_and_loads_by_itself(kit) -> None:
    app = kit.app(loads=[[kit.hold, kit.half_loaded, kit.hold, kit.loaded]])
    painted: list[bool] = []
    app.chat.call_after_refresh(lambda: painted.append(kit.engine.contacted))
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        assert painted == [False]
        assert kit.engine.contacted
        kit.engine.release()
        await pilot.pause()
        assert "6.1 MiB / 12.3 MiB" in text_of(chat(app).top.query_one("#state", Static))
        kit.engine.release()
        await pilot.pause()
        assert chat(app).top.state == "ready"
        assert chat(app).effort.steps == kit.model.think_steps


async def test_a_prompt_sent_while_the_model_loads_is_answered_when_it_is_there(kit) -> None:
    app = kit.app([kit.half_loaded, kit.hold, kit.loaded, *kit.complete("2")], loads=[[kit.hold]])
    async with app.run_test() as pilot:
        await ask(pilot)
        assert answers(app)[0].has_class("-waiting")
        kit.engine.release()
        await settle(pilot)
        assert said(answers(app)[0]) == "2"
        assert chat(app).top.model == kit.model


async def test_an_answer_that_waits_for_the_model_says_so_and_the_load_goes_on_telling_its_progress(
    kit,
) -> None:
    waiting = Loading(stage="waiting for the model")
    app = kit.app([waiting, kit.hold, Queued(ahead=1), kit.hold], loads=[[kit.half_loaded, kit.hold]])
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        wait = answers(app)[0].query_one("#wait", Static)
        assert text_of(wait) == "… waiting for the model; the answer follows"
        assert "6.1 MiB / 12.3 MiB" in text_of(chat(app).top.query_one("#state", Static))
        kit.engine.release()
        await pilot.pause(0.1)
        assert text_of(wait) == "… 1 request before this one"


async def test_simulated_hardware_is_called_so_once(kit) -> None:
    label = "NVIDIA GeForce RTX 4090 (predicted)"
    simulated = msgspec.structs.replace(kit.model, profile=label, simulated=True)
    app = kit.app(loads=[[msgspec.structs.replace(kit.loaded, model=simulated)]])
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        assert text_of(chat(app).top.query_one("#model", Static)).endswith(f"float32 · {label}")


async def test_a_model_that_cannot_be_loaded_says_why_and_is_retried(kit) -> None:
    missing = Failed(code="model", message="there is no folder qwen", hint="give another --model")
    app = kit.app(loads=[[missing], [kit.loaded]])
    async with app.run_test() as pilot:
        await pilot.pause()
        shown = text_of(chat(app).query_one(Failure))
        assert "there is no folder qwen" in shown and "give another --model" in shown
        await ask(pilot, "/retry")
        assert not chat(app).query(Failure)
        assert chat(app).top.state == "ready"


# Answering


async def test_an_answer_is_streamed_kept_and_receipted(kit) -> None:
    app = kit.app(
        [kit.started(), kit.think(), kit.say("It is "), kit.hold, *kit.complete("It is **2**")[-2:]]
    )
    async with app.run_test() as pilot:
        await ask(pilot)
        assert "It is" in text_of(answers(app)[0].query_one("#tail", Static))
        kit.engine.release()
        await settle(pilot)
        assert said(answers(app)[0]) == "It is **2**"
        assert "think 40" in answers(app)[0].query_one(ReceiptLine).text
    assert [turn.content for turn in session(kit).tree] == ["What is 1+1?", "It is **2**"]


async def test_each_event_is_on_disk_before_it_is_drawn(kit, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    write = AnswerTurn.write

    def look(self: AnswerTurn, phase: str, text: str, tokens: int) -> None:
        turn = session(kit).tree[self.turn_id]
        seen.append((text, turn.thinking if phase == "thinking" else turn.content))
        write(self, phase, text, tokens)

    monkeypatch.setattr(AnswerTurn, "write", look)
    app = kit.app([kit.started(), kit.think("hm"), kit.say("a"), kit.say("b"), kit.finished("ab", "hm")])
    async with app.run_test() as pilot:
        await ask(pilot)
    assert seen == [("hm", "hm"), ("a", "a"), ("b", "ab")]


async def test_the_request_carries_the_conversation_and_the_dial(kit) -> None:
    app = kit.app(kit.complete("2"), kit.complete("3"))
    async with app.run_test() as pilot:
        await ask(pilot, "one")
        await pilot.press("f3")
        await ask(pilot, "two")
    first, second = kit.engine.requests
    assert first.think == "max" and second.think == 512
    assert [message.content for message in second.messages] == ["one", "2", "two"]


async def test_text_sent_while_an_answer_runs_stays_in_the_prompt(kit) -> None:
    app = kit.app([kit.started(), kit.hold])
    async with app.run_test() as pilot:
        await ask(pilot)
        await ask(pilot, "and then?")
        assert chat(app).prompt.text == "and then?"
        assert len(kit.engine.requests) == 1


async def test_a_model_that_cannot_think_is_not_asked_to(kit) -> None:
    plain = msgspec.structs.replace(
        kit.loaded, model=msgspec.structs.replace(kit.model, thinking_format=None)
    )
    app = kit.app(kit.complete("2", ""), loads=[[plain]])
    async with app.run_test() as pilot:
        await ask(pilot)
        assert kit.engine.requests[0].think == "off"
        assert "does not think" in text_of(chat(app).effort_line.query_one("#dial", Static))


async def test_without_a_question_nothing_is_asked_and_nothing_is_kept(kit) -> None:
    app = kit.app(kit.complete("2"))
    async with app.run_test() as pilot:
        await pilot.pause()
        await chat(app).begin_answer()
        await settle(pilot)
        assert [notice.title for notice in app._notifications] == ["there is no question to answer"]
        assert not kit.store.directory.exists()
        await ask(pilot)
        with pytest.raises(CommandError, match="no question"):
            chat(app).conversation.ask("off")  # the last turn is an answer
    assert len(kit.engine.requests) == 1 and len(session(kit).tree) == 2


async def test_control_sequences_and_markup_of_a_model_are_shown_as_text_or_dropped(kit) -> None:
    evil = "[@click=app.quit()]x[/] [bold] \x1b[2J\x1b]52;c;aGk=\x07 \x9b1m <b>html</b> \u202eabc"
    script = [kit.started(), kit.think(evil), kit.say(evil), kit.hold, kit.finished(evil, evil)]
    app = kit.app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot, evil)
        await pilot.press("ctrl+o")
        for _ in range(2):
            screen = "\n".join(
                "".join(part.text for part in strip) for strip in app.screen._compositor.render_strips()
            )
            assert "[@click=app.quit()]" in screen
            assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(screen)
            kit.engine.release()
            await settle(pilot)
        assert "html" in said(answers(app)[0])


# Thinking and the dial


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


# The transcript


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


# Sizes and colors


@pytest.mark.parametrize("size", [(1, 1), (40, 10)])
async def test_any_size_of_terminal_is_survived_through_a_whole_answer(kit, size: tuple[int, int]) -> None:
    script = [
        kit.started(),
        kit.think(),
        kit.metered(),
        kit.say(kit.proof),
        kit.hold,
        kit.finished(kit.proof),
    ]
    app = kit.app(script)
    async with app.run_test(size=size) as pilot:
        await ask(pilot)
        for other in ((120, 30), (2, 40), (300, 3), size):
            await pilot.resize_terminal(*other)
        kit.engine.release()
        await settle(pilot)
        await pilot.press("escape", "i", "escape", "f1", "escape")
        await pilot.pause()
        assert said(answers(app)[0]) == kit.proof


async def test_the_meter_says_unknown_where_it_does_not_know(kit) -> None:
    app = kit.app(
        [kit.started(), kit.metered(None, next_token_roofline_s=None, prefill_tok_s=None), kit.hold]
    )
    async with app.run_test(size=(130, 40)) as pilot:
        await ask(pilot)
        pane = chat(app).query_one("MeterPane")
        for part in ("speed", "prefill"):
            assert "n/a" in text_of(pane.query_one(f"#{part}", Static))
        assert "roofline" in text_of(pane.query_one("#next", Static)).splitlines()[-1]
        assert text_of(pane.query_one("#next", Static)).endswith("n/a")


async def test_an_accelerators_memory_is_shown_instead_of_the_processs(kit) -> None:
    gpu = kit.metered(device_used_bytes=9 * 2**30, device_total_bytes=24 * 2**30, weights_bytes=8 * 2**30)
    app = kit.app([kit.started(), gpu, kit.hold])
    async with app.run_test(size=(130, 40)) as pilot:
        await ask(pilot)
        shown = text_of(chat(app).query_one("MeterPane #memory", Static))
        assert "device memory" in shown and "9.0 GiB of 24.0 GiB" in shown


async def test_without_color_nothing_but_color_is_lost(kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = kit.app(kit.complete("2"))
    assert app.no_color
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        assert said(answers(app)[0]) == "2"


async def test_a_finished_answer_is_exactly_what_the_engine_said_at_the_end(kit) -> None:
    script = [
        kit.started(),
        kit.say("one\n\ntwo\n\n"),
        kit.hold,
        Finished(answer=kit.answer("one\n\nthree", "")),
    ]
    app = kit.app(script)
    async with app.run_test() as pilot:
        await ask(pilot)
        kit.engine.release()
        await settle(pilot)
        assert said(answers(app)[0]) == "one\n\nthree"


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
