"""What an answer may spend in all, as a person says it: `2000tok`, `30s`, `2kJ`, `5TFLOP`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from msgspec import Struct

BudgetUnit = Literal["tok", "s", "J", "FLOP"]

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_SMALL = {"m": 1e-3, **_PREFIXES}
_WORDS: Mapping[str, tuple[BudgetUnit, Mapping[str, float]]] = {
    "tok": ("tok", _PREFIXES),
    "tokens": ("tok", _PREFIXES),
    "s": ("s", {"": 1.0, "m": 1e-3}),
    "min": ("s", {"": 60.0}),
    "J": ("J", _SMALL),
    "Wh": ("J", {"": 3600.0, "m": 3.6, "k": 3.6e6}),
    "FLOP": ("FLOP", _PREFIXES),
    "FLOPs": ("FLOP", _PREFIXES),
}
EXAMPLES = "2000tok, 30s, 2kJ or 5TFLOP"


class Limit(Struct, frozen=True):
    """The most that an answer may spend in one unit, hidden and discarded work included.

    "tok" are tokens that go through the model, whatever for; what the cache holds is free. "s" run from the
    acceptance of the request, without the model's load.
    """

    unit: BudgetUnit
    amount: float


def parse_limit(text: str) -> Limit:
    """Raises ValueError with one line that names what is wrong and what is allowed."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?(?:e\d{1,2})?)\s*([A-Za-z]*)\s*", text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no budget: say {EXAMPLES}")
    number, word = float(match[1]), match[2]
    if not word:
        raise ValueError(f"{text[:40]!r} is a budget without a unit: say {EXAMPLES}")
    for name, (unit, prefixes) in _WORDS.items():
        prefix = word.removesuffix(name)
        if word.endswith(name) and prefix in prefixes:
            return _limit(text, unit, number * prefixes[prefix])
    raise ValueError(f"{word[:40]!r} is no unit of a budget: use {', '.join(get_args(BudgetUnit))}")


def _limit(text: str, unit: BudgetUnit, amount: float) -> Limit:
    if amount <= 0:
        raise ValueError(f"a budget of {text[:40]} leaves nothing for an answer")
    if unit == "tok" and amount < 1:
        raise ValueError(f"a budget of {text[:40]} is not even one token")
    if not math.isfinite(amount) or amount > 1e24:
        raise ValueError(f"a budget of {text[:40]} is beyond all measure")
    return Limit(unit, float(math.floor(amount)) if unit in ("tok", "FLOP") else amount)


def parse_limits(texts: Iterable[str]) -> tuple[Limit, ...]:
    """One for each unit, the tightest; a text may name several, apart by commas. Raises ValueError."""
    tightest: dict[BudgetUnit, Limit] = {}
    for text in texts:
        for part in text.split(","):
            limit = parse_limit(part)
            known = tightest.get(limit.unit)
            if known is None or limit.amount < known.amount:
                tightest[limit.unit] = limit
    return tuple(tightest.values())
