"""The preview: what each method would cost for what is written; the one that is taken answers."""

from __future__ import annotations

import pytest
from chat_driver import answers, chat, said, settle, text_of
from textual.widgets import OptionList, Static

from app.tui.screens.preview import PreviewScreen, fitted
from engine.protocol import Failed
from engine.protocol.preview import Preview, Previewed, PreviewRow, Spread

QUESTION = "What is 4748 + 2674?"


def row(
    method: str, think: int | str, accuracy: float, tokens: tuple[int, int], **changes: bool
) -> PreviewRow:
    def spread(unit: str, factor: float) -> Spread:
        return Spread(p50=tokens[0] * factor, p90=tokens[1] * factor, unit=unit)  # type: ignore[arg-type]

    return PreviewRow(
        method=method,
        think=think,  # type: ignore[arg-type]
        accuracy=accuracy,
        accuracy_low=accuracy - 0.1,
        accuracy_high=accuracy + 0.1,
        tokens=spread("tok", 1),
        seconds=spread("s", 0.011),
        joules=spread("J", 0.12),
        flops=spread("FLOP", 5.2e6),
        **{"fits": True, "dead": False, "chosen": False, **changes},
    )


PREVIEW = Preview(
    model="tiny",
    prompt_tokens=24,
    budget=(),
    rows=(
        row("direct", "off", 0.12, (29, 32)),
        row("cot", 16, 0.11, (44, 48), dead=True),
        row("cot", "max", 0.91, (62, 80), chosen=True),
        row("vote:5", "max", 0.93, (310, 412)),
    ),
    reason="expected to be right in 91 %; vote:5 in 93 %",
    answers="shipped",
    like=20,
    device="guess",
    notes=("seconds are guessed: `mull calibrate` measures this device",),
)


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (100, 30), (160, 45)])
async def test_each_method_stands_on_a_line_of_its_own(kit, width: int, height: int) -> None:
    app = kit.app()
    kit.engine.preview_script = [Previewed(preview=PREVIEW)]
    async with app.run_test(size=(width, height)) as pilot:
        chat(app).prompt.replace_text(QUESTION)
        await pilot.press("f5")
        await pilot.pause()
        ways = app.screen.query_one("#ways", OptionList)
        lines = [str(ways.get_option_at_index(at).prompt) for at in range(ways.option_count)]
        assert [line.split()[0].strip("▶▽") or line.split()[1] for line in lines] == [
            "direct", "cot", "cot", "vote:5",
        ]  # fmt: skip
        assert all(len(line) <= ways.content_size.width for line in lines)
        assert ways.size.height == ways.option_count
        assert ways.highlighted == 2 and "91 %" in lines[2]
        assert "FLOP" in lines[0] or width < 100
        assert "seconds are guessed" in text_of(app.screen.query_one("#sources", Static))
        assert kit.engine.previews[0].messages[-1].content == QUESTION


async def test_the_method_that_is_taken_answers_the_question(kit) -> None:
    app = kit.app(kit.complete("7422"))
    kit.engine.preview_script = [Previewed(preview=PREVIEW)]
    async with app.run_test() as pilot:
        chat(app).prompt.replace_text(QUESTION)
        await pilot.press("f5")
        await pilot.pause()
        await pilot.press("j", "enter")
        await settle(pilot)
        assert said(answers(app)[0]) == "7422"
        assert chat(app).prompt.text == ""
    (request,) = kit.engine.requests
    assert (request.method, request.think) == ("vote:5", "max")
    assert request.messages[-1].content == QUESTION


async def test_a_preview_that_is_closed_leaves_the_question_in_the_prompt(kit) -> None:
    app = kit.app()
    kit.engine.preview_script = [Previewed(preview=PREVIEW)]
    async with app.run_test() as pilot:
        chat(app).prompt.replace_text(QUESTION)
        await pilot.press("f5")
        await pilot.pause()
        await pilot.press("escape")
        await pilot.pause()
        assert chat(app).prompt.text == QUESTION and not answers(app)
    assert not kit.engine.requests


async def test_a_failed_preview_says_why(kit) -> None:
    app = kit.app()
    kit.engine.preview_script = [Failed(code="engine", message="the engine went away", hint="ask again")]
    async with app.run_test() as pilot:
        await pilot.press(*"/preview", "space", *"hi", "enter")
        await pilot.pause()
        assert isinstance(app.screen, PreviewScreen)
        assert "the engine went away: ask again" in text_of(app.screen.query_one("#reason", Static))


def test_what_a_narrow_screen_has_no_room_for_is_left_out_from_the_right() -> None:
    table = [tuple("abcdefgh"), tuple("ABCDEFGH")]
    assert fitted(table, 22) == ["a  b  c  d  e  f  g  h", "A  B  C  D  E  F  G  H"]
    assert fitted(table, 21) == ["a  b  c  d  e  f  g", "A  B  C  D  E  F  G"]
    assert fitted(table, 13) == ["a  b  c  e  f", "A  B  C  E  F"]
