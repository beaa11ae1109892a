"""Words shared by the families: names, things, and the ways to ask for a value."""

import random

NAMES = ("Ann", "Bob", "Cal", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jim", "Kim", "Lee")
ITEMS = ("apples", "books", "coins", "pens", "shells", "cards", "stamps", "eggs")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_QUESTIONS = (
    "What is {}?",
    "What is {}?",
    "Compute {}.",
    "{} = ?",
    "Calculate {}",
    "How much is {}?",
    "what is {}",
    "{}",
    "{} =",
)


def ask_value(rng: random.Random, expression: str) -> str:
    """Ask for the value of `expression`, written with spaces around its operators and `*` for times."""
    if rng.random() < 0.3:
        expression = expression.replace(" ", "")
    if rng.random() < 0.2:
        expression = expression.replace("*", rng.choice("x×"))
    return rng.choice(_QUESTIONS).format(expression)
