"""What the screens look like, drawn from scripted events under a clock that stands still."""

from __future__ import annotations

from app.config import Settings
from engine.protocol import Failed

QUESTION = "What is 4748 + 2674?"
RATES = (61.0, 74.5, 80.2, 84.0, 86.1, 86.6)


async def settle(pilot) -> None:
    """Wait until what the engine's script says by now is drawn."""
    await pilot.app.chat.services.engine.settle(pilot)


async def ask(pilot) -> None:
    pilot.app.chat.prompt.replace_text(QUESTION)
    await pilot.press("enter")
    await settle(pilot)


def then(*keys: str):
    """Ask, then press these."""

    async def run(pilot) -> None:
        await ask(pilot)
        await pilot.press(*keys)
        await settle(pilot)

    return run


def thinking(kit) -> list:
    """An answer that has thought for 1.4 seconds."""
    return [kit.started(), kit.think(), *(kit.metered(rate) for rate in RATES), kit.hold]


def thinking_for_a_while(kit):
    async def run(pilot) -> None:
        await ask(pilot)
        kit.clock.seconds += 1.4
        await settle(pilot)

    return run


def streaming(kit) -> list:
    """An answer in the middle of an open code fence."""
    cut = kit.proof.index("assert")
    return [
        kit.started(),
        kit.think(),
        *(kit.metered(rate) for rate in RATES),
        kit.say(kit.proof[:cut]),
        kit.hold,
    ]


def test_empty_80x24(kit, snap_compare) -> None:
    assert snap_compare(kit.app(), terminal_size=(80, 24))


def test_empty_160x45(kit, snap_compare) -> None:
    assert snap_compare(kit.app(), terminal_size=(160, 45))


def test_empty_40x10(kit, snap_compare) -> None:
    assert snap_compare(kit.app(), terminal_size=(40, 10))


def test_empty_80x24_light_with_a_prompt_chosen(kit, snap_compare) -> None:
    app = kit.app(settings=Settings(theme="light"))
    assert snap_compare(app, terminal_size=(80, 24), press=["down"])


def test_loading_100x30(kit, snap_compare) -> None:
    assert snap_compare(kit.app(loads=[[kit.half_loaded, kit.hold]]), terminal_size=(100, 30))


def test_load_failed_80x24(kit, snap_compare) -> None:
    app = kit.app(loads=[[kit.failed("there is no model folder qwen3-4b")]])
    assert snap_compare(app, terminal_size=(80, 24))


def test_thinking_100x30(kit, snap_compare) -> None:
    app = kit.app(thinking(kit))
    assert snap_compare(app, terminal_size=(100, 30), run_before=thinking_for_a_while(kit))


def test_thinking_160x45_light(kit, snap_compare) -> None:
    app = kit.app(thinking(kit), settings=Settings(theme="light"))
    assert snap_compare(app, terminal_size=(160, 45), run_before=thinking_for_a_while(kit))


def test_thinking_40x10(kit, snap_compare) -> None:
    app = kit.app(thinking(kit))
    assert snap_compare(app, terminal_size=(40, 10), run_before=thinking_for_a_while(kit))


def test_streaming_100x30(kit, snap_compare) -> None:
    assert snap_compare(kit.app(streaming(kit)), terminal_size=(100, 30), run_before=ask)


def test_finished_160x45(kit, snap_compare) -> None:
    app = kit.app(kit.complete(kit.proof))
    assert snap_compare(app, terminal_size=(160, 45), run_before=ask)


def test_finished_80x24_light(kit, snap_compare) -> None:
    app = kit.app(kit.complete(kit.proof), settings=Settings(theme="light"))
    assert snap_compare(app, terminal_size=(80, 24), run_before=ask)


def test_finished_80x24_ansi_colors(kit, snap_compare) -> None:
    app = kit.app(kit.complete(), settings=Settings(theme="ansi"))
    assert snap_compare(app, terminal_size=(80, 24), run_before=ask)


def test_finished_with_its_thoughts_in_full_100x30(kit, snap_compare) -> None:
    app = kit.app(kit.complete(), settings=Settings(show_thinking="full"))
    assert snap_compare(app, terminal_size=(100, 30), run_before=ask)


def test_selected_in_the_transcript_100x30(kit, snap_compare) -> None:
    app = kit.app(kit.complete(), kit.complete())
    assert snap_compare(app, terminal_size=(100, 30), run_before=then("escape", "r", "escape"))


def test_stopped_100x30(kit, snap_compare) -> None:
    assert snap_compare(kit.app(streaming(kit)), terminal_size=(100, 30), run_before=then("escape"))


def test_failed_80x24(kit, snap_compare) -> None:
    app = kit.app([kit.started(), kit.think(), kit.say("74"), kit.failed()])
    assert snap_compare(app, terminal_size=(80, 24), run_before=ask)


def full_context(kit) -> list:
    """A conversation for which the context has no more room."""
    return [
        Failed(
            code="overflow",
            message="the conversation takes 4,072 tokens, which leaves too little of the context's 4,096",
        )
    ]


def test_context_full_80x24(kit, snap_compare) -> None:
    app = kit.app(full_context(kit))
    assert snap_compare(app, terminal_size=(80, 24), run_before=then("down"))


def test_context_full_60x14(kit, snap_compare) -> None:
    assert snap_compare(kit.app(full_context(kit)), terminal_size=(60, 14), run_before=ask)


def test_context_nearly_full_100x30(kit, snap_compare) -> None:
    app = kit.app([kit.started(), kit.metered(context_used=3400), kit.hold])
    assert snap_compare(app, terminal_size=(100, 30), run_before=ask)


def test_context_nearly_full_160x45_light(kit, snap_compare) -> None:
    app = kit.app([kit.started(), kit.metered(context_used=3400), kit.hold], settings=Settings(theme="light"))
    assert snap_compare(app, terminal_size=(160, 45), run_before=ask)


def test_turns_left_out_100x30(kit, snap_compare) -> None:
    kit.record(("What is 13 + 5?", "18"), ("And 7 * 8?", "56"))
    app = kit.app([kit.started(turns_left_out=("t1", "t2")), kit.hold], resume="last")
    assert snap_compare(app, terminal_size=(100, 30), run_before=ask)


def test_completing_80x24(kit, snap_compare) -> None:
    assert snap_compare(kit.app(), terminal_size=(80, 24), press=["slash"])


def test_help_100x30(kit, snap_compare) -> None:
    assert snap_compare(kit.app(), terminal_size=(100, 30), press=["f1"])


def test_receipt_100x30(kit, snap_compare) -> None:
    app = kit.app(kit.complete(kit.proof))
    assert snap_compare(app, terminal_size=(100, 30), run_before=then("escape", "i"))


def test_receipt_40x10(kit, snap_compare) -> None:
    app = kit.app(kit.complete(kit.proof))
    assert snap_compare(app, terminal_size=(40, 10), run_before=then("escape", "i"))
