"""Talk that holds no problem the model could work out, drawn from smalltalk.toml in many wordings.

Used for training only: at run time nothing matches these words, the model answers by itself.
"""

import random
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_FILLED_WITH_NONSENSE = 0.2  # share of slots holding an invented word, so that unknown words are no surprise
_FIRST_REPLY_SHARE = 0.8
_DIGITS = {"long": (7, 9), "any": (1, 4), "digit": (1, 1), "two": (2, 2), "three": (3, 3)}


@dataclass(frozen=True)
class Talk:
    """A prompt with the one line of thought it deserves and its reply."""

    kind: str
    prompt: str
    thought: str
    reply: str


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(files("engine.tasks").joinpath("smalltalk.toml").read_text("utf-8"))


def _nonsense(rng: random.Random) -> str:
    syllables = [
        rng.choice("bcdfghklmnprstvwz") + rng.choice("aeiou") + rng.choice("nrsltm ") for _ in range(3)
    ]
    word = "".join(syllables[: rng.randint(1, 3)]).replace(" ", "")
    return rng.choice((word, word, word.capitalize()))


def _number(rng: random.Random, digits: int) -> str:
    return str(rng.randint(10 ** (digits - 1), 10**digits - 1))


def _fill_words(rng: random.Random, text: str) -> str:
    for slot, choices in _data()["fillers"].items():
        filler = _nonsense(rng) if rng.random() < _FILLED_WITH_NONSENSE else rng.choice(choices)
        text = text.replace("{" + slot + "}", filler)
    while "{nonsense}" in text:
        text = text.replace("{nonsense}", _nonsense(rng), 1)
    return text


def _fill_numbers(rng: random.Random, text: str) -> str:
    for slot, (fewest, most) in _DIGITS.items():
        while "{" + slot + "}" in text:
            digits = rng.randint(fewest, most) if fewest < most else fewest
            text = text.replace("{" + slot + "}", _number(rng, digits), 1)
    return rng.choice(("What is {}?", "Compute {}.", "{} = ?", "How much is {}?", "{}")).format(text)


def _write_hurriedly(rng: random.Random, text: str) -> str:
    """The same words as people in a hurry write them."""
    if rng.random() < 0.3:
        text = text.lower()
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    if text[-1] not in ".?!" and rng.random() < 0.5:
        text += rng.choice(".?!!")
    if rng.random() < 0.1:
        text = rng.choice(("Please ", "Hello, ", "Hi! ", "So, ", "ok ")) + text
    return text


def draw_talk(rng: random.Random) -> Talk:
    """Draw a prompt that is no problem of any family."""
    kinds = _data()["talk"]
    kind = rng.choices(list(kinds), [talk["share"] for talk in kinds.values()])[0]
    talk = kinds[kind]
    prompt = rng.choice(talk["prompts"])
    if kind == "far_arithmetic":
        prompt = _fill_numbers(rng, prompt)
    else:
        if kind == "elsewhere":
            prompt = _fill_words(rng, prompt)
        prompt = _write_hurriedly(rng, prompt)
    replies = talk["replies"]
    reply = replies[0] if rng.random() < _FIRST_REPLY_SHARE else rng.choice(replies)
    return Talk(kind, prompt, talk["thought"], reply)
