"""An answer from the question to the receipt, with an engine that follows a script."""

from __future__ import annotations

import msgspec
import pytest
from chat_driver import answers, ask, chat, said, session, settle, text_of
from textual.widgets import Static

from app.errors import CommandError
from app.tui.widgets.answer_turn import AnswerTurn
from app.tui.widgets.failure import Failure
from app.tui.widgets.receipt_line import ReceiptLine
from engine.protocol import Failed, Finished, Loading, Queued

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
