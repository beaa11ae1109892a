"""The dial goes through the model's own steps, and stops at its ends."""

from app.tui.commands import METHODS
from app.tui.effort import Effort
from engine.thinking.methods import method_of

STEPS = (32, 128, 512)


def test_the_dial_cycles_from_off_through_every_step_to_max_and_back() -> None:
    effort, seen = Effort("off", STEPS), []
    for _ in range(6):
        seen.append(effort.think)
        effort = effort.cycled()
    assert seen == ["off", 32, 128, 512, "max", "off"]


def test_more_and_less_stop_at_the_ends() -> None:
    assert Effort("max", STEPS).more().think == "max"
    assert Effort("off", STEPS).less().think == "off"
    assert Effort("max", STEPS).less().think == 512


def test_a_number_between_two_steps_goes_to_its_neighbors() -> None:
    assert Effort(300, STEPS).more().think == 512
    assert Effort(300, STEPS).less().think == 128
    assert Effort(300, STEPS).level == 2


def test_before_the_steps_are_known_there_is_off_and_max() -> None:
    assert Effort("off").more().think == "max"
    assert Effort("max").less().think == "off"


def test_a_running_limit_moves_to_the_neighboring_step() -> None:
    effort = Effort("max", STEPS)
    assert effort.step_at(128, +1) == 384
    assert effort.step_at(128, -1) == -96
    assert effort.step_at(700, +1) == 512, "above the last step, the last step again"
    assert effort.step_at(32, -1) == -32, "below the first step, all of it"


def test_every_method_that_is_offered_is_one() -> None:
    offered = [name for name, _ in METHODS if name != "off"]
    assert [method_of(name).label.partition(":")[0] for name in offered if name != "auto"] == [
        name.partition(":")[0] for name in offered if name != "auto"
    ]
