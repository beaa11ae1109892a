"""The conversations that the bundled model is trained on."""

import random

import pytest

from engine.tasks.examples import Example, draw_example
from engine.tasks.steps import CHECK_PHRASE, first_wrong_line


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = random.Random(12)
    return [draw_example(rng) for _ in range(4000)]


def _learned(example: Example) -> str:
    return "".join(segment.text for segment in example.reply if segment.learned)


def _asked_before(example: Example) -> list[str]:
    return [message.content for message in example.history if message.role == "user"]


def test_a_question_may_have_been_asked_before_and_is_thought_about_again(examples: list[Example]) -> None:
    again = [example for example in examples if example.prompt in _asked_before(example)]
    assert len(again) > 40
    assert sum("\n" in _learned(example) for example in again) > 0.8 * len(again)


def test_earlier_turns_never_show_a_thought(examples: list[Example]) -> None:
    assert all("think>" not in message.content for example in examples for message in example.history)


def test_at_most_three_in_ten_correct_themselves(examples: list[Example]) -> None:
    share = sum(CHECK_PHRASE in _learned(example) for example in examples) / len(examples)
    assert 0.1 < share <= 0.3


def test_a_thought_sometimes_goes_on_after_its_answer(examples: list[Example]) -> None:
    after = [example for example in examples if "\nSo " in _learned(example)]
    assert 0.02 < len(after) / len(examples) < 0.15
    careful = [e for e in examples if e.history and e.history[0].content == "Check your result."]
    assert sum(example in after for example in careful) > 0.5 * len(careful)


def test_nothing_wrong_is_learned(examples: list[Example]) -> None:
    """What a slip carries along is consistent, so that only lines without loss are wrong by themselves."""
    for example in examples:
        assert first_wrong_line(_learned(example)) is None, example


def test_thinking_is_off_in_some_greetings_and_on_in_others(examples: list[Example]) -> None:
    greetings = [example for example in examples if "Hello!" in _learned(example)]
    assert {example.reply[0].learned for example in greetings} == {True, False}
