"""Any size of terminal, any hardware, with and without color."""

from __future__ import annotations

import pytest
from chat_driver import answers, ask, chat, said, settle, text_of
from textual.widgets import Static


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
        for part in ("speed", "rates"):
            assert "n/a" in text_of(pane.query_one(f"#{part}", Static))
        assert "roofline" in text_of(pane.query_one("#next", Static)).splitlines()[-1]
        assert text_of(pane.query_one("#next", Static)).endswith("n/a")


async def test_the_meter_counts_guesses_where_there_are_any(kit) -> None:
    guessed = kit.metered(drafts_accepted=1095, drafts_rejected=25)
    app = kit.app([kit.started(), kit.metered(), kit.hold, guessed, kit.hold])
    async with app.run_test(size=(130, 40)) as pilot:
        await ask(pilot)
        rates = chat(app).query_one("MeterPane #rates", Static)
        assert "guesses" not in text_of(rates)
        kit.engine.release()
        await settle(pilot)
        assert text_of(rates).splitlines()[-1].split("  ")[-1].strip() == "1,095 of 1,120"


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
