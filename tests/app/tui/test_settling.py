"""After an answer the app finds out where its thought settled, shows, keeps and offers it as the budget."""

from __future__ import annotations

from chat_driver import answers, ask, chat, session, settle, text_of
from msgspec.structs import replace
from textual.widgets import Static

from app.config import Settings
from app.sessions.export import render
from engine.protocol import Answer, Failed, Finished, ModelSpec, Settling, SettlingMark
from engine.protocol.settling import Settled
from engine.protocol.trace import Trace

TRACE = Trace(spec=ModelSpec(), fingerprint="", weights="", template="", messages=(), paths=())
FOUND = "settled at 12 of 40 tokens: the last 70 % changed nothing"


def script(kit, text: str = "7422", thinking: str | None = None) -> list:
    """A whole answer that was recorded with its tokens."""
    events = kit.complete(text) if thinking is None else kit.complete(text, thinking)
    answer = events[-1].answer
    return [*events[:-1], Finished(answer=replace(answer, trace=TRACE))]


def found(kit, settled: int | None = 12, budget: int | None = 19, reason: str = "") -> Settled:
    answer: Answer = kit.answer()
    marks = (SettlingMark(tokens=5, answer="7"), SettlingMark(tokens=12, answer="7422"))
    return Settled(
        settling=Settling(
            thought=40, settled=settled, reason=reason, marks=marks, budget=budget, receipt=answer.receipt
        )
    )


def line(app, at: int = -1) -> str:
    """What stands below an answer of where it settled."""
    widget = answers(app)[at].query_one("#settling", Static)
    return text_of(widget) if widget.display else ""


async def test_where_it_settled_is_shown_kept_exported_and_taken_as_the_budget(kit) -> None:
    app = kit.app(script(kit))
    kit.engine.settling_script = [found(kit)]
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await settle(pilot)
        assert FOUND in line(app) and "/settle" in line(app)
        chat(app).prompt.replace_text("/settle")
        await pilot.press("enter", "enter")
        await settle(pilot)
        assert chat(app).effort.think == 19 and kit.remembered["think"] == 19
    kept = session(kit)
    turn = list(kept.tree)[-1]
    assert turn.answer is not None and turn.answer.settling is not None
    assert turn.answer.settling.settled == 12 and turn.answer.receipt.tokens.probe == 0
    assert FOUND in render(kept, "md") and '"settled": 12' in render(kept, "json")


async def test_it_is_shown_again_in_a_session_that_goes_on(kit) -> None:
    app = kit.app(script(kit))
    kit.engine.settling_script = [found(kit)]
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await settle(pilot)
    again = kit.app(resume="last")
    async with again.run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        assert FOUND in line(again)


async def test_a_question_comes_first(kit) -> None:
    app = kit.app(script(kit), script(kit, "8"))
    kit.engine.settling_script = [kit.hold, found(kit)]
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        kit.engine.settling_script = []
        await ask(pilot, "And 1+2?")
        assert len(kit.engine.requests) == 2 and [line(app, at) for at in (0, 1)] == ["", ""]


async def test_where_nothing_was_found_out_nothing_is_shown_and_nothing_is_taken(kit) -> None:
    app = kit.app(script(kit))
    kit.engine.settling_script = [Failed(code="cancelled", message="the engine has something else to do")]
    async with app.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await settle(pilot)
        assert len(kit.engine.settlings) == 1 and line(app) == ""
        before = chat(app).effort.think
        chat(app).action_settle()
        assert chat(app).effort.think == before


async def test_it_is_not_looked_for_where_it_is_off_or_nothing_was_thought(kit) -> None:
    off = kit.app(script(kit), settings=Settings(settling=False))
    async with off.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        assert kit.engine.settlings == []
    direct = kit.app(script(kit, thinking=""))
    async with direct.run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        assert kit.engine.settlings == []
