"""Words shared by the families: names, things, and the ways to ask; some wordings are never trained on."""

import random
from dataclasses import dataclass
from typing import Literal

Wording = Literal["seen", "unseen"]

NAMES = (
    *("Ann", "Bob", "Cal", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jim", "Kim", "Lee"),
    *("Max", "Ned", "Pam", "Ray", "Sue", "Tom", "Uma", "Zoe"),
)
ITEMS = ("apples", "books", "coins", "pens", "shells", "cards", "stamps", "eggs", "marbles", "cakes")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_BABBLE = 0.06  # share of questions among words that mean nothing: what matters has to be found all the same
_INVENTED_NAMES = 0.08  # share of problems whose people have names that no list holds


@dataclass(frozen=True)
class Phrases:
    """Templates of one sentence; the unseen ones are kept from training."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def draw(self, rng: random.Random, wording: Wording) -> str:
        """One of the templates of `wording`; a verb that it leaves open is invented."""
        chosen = rng.choice(self.seen if wording == "seen" else self.unseen)
        return chosen.replace("{verb}", invented_word(rng)) if "{verb}" in chosen else chosen


_VALUE = Phrases(
    seen=(
        "What is {}?",
        "What is {}?",
        "Compute {}.",
        "{} = ?",
        "Calculate {}",
        "How much is {}?",
        "what is {}",
        "{}",
        "{} =",
        "What's {}?",
        "Find {}.",
        "Work out {}.",
        "Evaluate {}.",
        "Give me the value of {}.",
        "Can you compute {}?",
        "I need the result of {}.",
        "what does {} make?",
        "Tell me what {} is.",
        "Solve {}",
        "Please compute {}.",
        "Would you work out {}, please?",
        "What would {} be?",
        "{} is what?",
        "Say what {} comes to.",
        "I want to know {}.",
        "Any idea what {} is?",
        "Figure out {}.",
        "Value of {}?",
        "Help me calculate {} please",
        "I get stuck at {}.",
        "The answer to {}?",
        "{}, how much does that make?",
        "Let me have {}.",
    ),
    unseen=(
        "What does {} equal?",
        "Could you calculate {} for me?",
        "What do you get for {}?",
        "Determine {}.",
        "Do you know what {} is?",
        "The result of {} is what?",
    ),
)
_BEFORE = Phrases(
    seen=(
        "Please solve this: ",
        "Question: ",
        "Hi! ",
        "Hello, ",
        "Can you help me? ",
        "Quick question: ",
        "I have a question. ",
        "Solve: ",
        "Think carefully. ",
        "Here is a puzzle. ",
        "Problem: ",
        "ok, ",
        "So, ",
        "Help me with this: ",
        "Now this: ",
        "And ",
        "Again: ",
        "Please tell me: ",
        "I am stuck. ",
        "A friend asks: ",
        "Hey, ",
        "Good morning. ",
        "One more: ",
        "For school: ",
        "Check this for me: ",
        "Would you answer this? ",
        "Let me ask you something. ",
        "From my book: ",
        "An exercise: ",
        "Well. ",
    ),
    unseen=("Try this one: ", "My homework: ", "Could you work this out? ", "Let us see. ", "Next problem: "),
)
_AFTER = Phrases(
    seen=(
        " Thanks!",
        " Please.",
        " Think step by step.",
        " Answer with the result only.",
        " Show your work.",
        " Be careful.",
        " Please explain.",
        " Take your time.",
        "\n",
        " Many thanks.",
        " I need it soon.",
        " Do it carefully.",
        " What is the answer?",
        " Tell me the result.",
        " Cheers!",
        " I do not get it.",
        " It is important.",
        " My sister wants to know.",
        " Slowly, step by step.",
    ),
    unseen=(
        " Thank you.",
        " What do you get?",
        " No rush.",
        " Go slowly, please.",
        " I cannot do it myself.",
    ),
)


def ask_value(rng: random.Random, expression: str, wording: Wording) -> str:
    """Ask for the value of `expression`, written with spaces around its operators and `*` for times."""
    if rng.random() < 0.3:
        expression = expression.replace(" ", "")
    if rng.random() < 0.2:
        expression = expression.replace("*", rng.choice("x×"))
    elif rng.random() < 0.1 and "(" not in expression:
        for sign, word in (("+", "plus"), ("-", "minus"), ("*", "times")):
            expression = expression.replace(f" {sign} ", f" {word} ")
    if wording == "seen" and rng.random() < _BABBLE:
        return f"{babble(rng)} {expression} {babble(rng)}".strip()
    return _VALUE.draw(rng, wording).format(expression)


def dress(rng: random.Random, question: str, wording: Wording) -> str:
    """The question with the words that people put before and after it, now and then."""
    if rng.random() < 0.18:
        question = _BEFORE.draw(rng, wording) + question
    if rng.random() < 0.15:
        question += _AFTER.draw(rng, wording)
    if wording == "seen" and rng.random() < _BABBLE:
        said = babble(rng).capitalize()
        question = f"{said}. {question}" if rng.random() < 0.5 else f"{question} {said}."
    return question


def invented_word(rng: random.Random) -> str:
    """A pronounceable word of one to three syllables that means nothing."""
    syllables = [
        rng.choice("bcdfghklmnprstvwz") + rng.choice("aeiou") + rng.choice("nrsltm ") for _ in range(3)
    ]
    return "".join(syllables[: rng.randint(1, 3)]).replace(" ", "")


def babble(rng: random.Random) -> str:
    """One to four invented words."""
    return " ".join(invented_word(rng) for _ in range(rng.randint(1, 4)))


def draw_names(rng: random.Random, count: int) -> list[str]:
    """So many different names."""
    if rng.random() < _INVENTED_NAMES:
        names: set[str] = set()
        while len(names) < count:
            names.add(invented_word(rng).capitalize())
        return rng.sample(sorted(names), count)
    return rng.sample(NAMES, count)
