"""Which answers a bench wants: models × methods × budgets × seeds, on the same problems. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
from msgspec import Struct

from app.errors import CommandError
from engine.protocol import MethodInfo, ModelInfo, Sampling, Think

SAMPLE_SEEDS = 1_000_003
"""Between the seeds of two samples of a problem: sample 0 of seed S is what `mull ask --seed S` gives."""


class Cell(Struct, frozen=True, kw_only=True):
    """One way to answer: all that an answer depends on besides the problem and the number of the sample."""

    model: str
    fingerprint: str
    method: str
    think: Think
    seed: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    system: str = ""

    @property
    def id(self) -> str:
        """A name for it: equal where a saved answer may stand for a new one. The model's name may change."""
        plain = msgspec.json.encode(msgspec.structs.replace(self, model=""), order="deterministic")
        return blake2b(plain, digest_size=8).hexdigest()

    @property
    def budget(self) -> str:
        return str(self.think)

    @property
    def candidates(self) -> int:
        """How many answers the method samples for each that it gives, at most."""
        number = self.method.partition(":")[2]
        return int(number) if number.isdecimal() else 1

    def sampling(self, sample: int) -> Sampling:
        """How the n-th answer to a problem is sampled."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=(self.seed + SAMPLE_SEEDS * sample) % 2**63,
        )


@dataclass(frozen=True)
class Plan:
    """What is asked for, before a model has said what it is. None: what the model and its methods suggest."""

    models: tuple[str, ...]
    methods: tuple[str, ...] | None
    budgets: tuple[Think, ...] | None
    seeds: tuple[int, ...]
    samples: int
    template: Cell
    """Of which sampling, cap and system message are taken."""

    def cells(self, info: ModelInfo, known: Sequence[MethodInfo]) -> list[Cell]:
        """A model's cells, by method, budget and seed. Raises CommandError where nothing is left to do.

        A method that thinks goes with every budget but off, one that does not with off alone, and one with
        several candidates with all.
        """
        budgets = self.budgets or ("off", *info.think_steps, "max")
        chosen = _methods(self.methods, known, info)
        pairs = [
            (method.name, budget)
            for method in chosen
            for budget in budgets
            if method.thinks == (budget != "off") or (method.candidates > 1 and not method.searches)
        ]
        for method in chosen if self.methods else ():
            if method.name not in {name for name, _ in pairs}:
                raise CommandError(
                    f"the method {method.name} {'thinks' if method.thinks else 'does not think'}, "
                    f"but the budgets are {', '.join(map(str, budgets))}",
                    f"add {'a number or max' if method.thinks else 'off'} to --budgets",
                    status=2,
                )
        return [
            msgspec.structs.replace(
                self.template,
                model=info.name,
                fingerprint=info.fingerprint,
                method=name,
                think=budget,
                seed=seed,
            )
            for name, budget in pairs
            for seed in self.seeds
        ]


def _methods(names: tuple[str, ...] | None, known: Sequence[MethodInfo], info: ModelInfo) -> list[MethodInfo]:
    """The methods asked for; what follows a colon is the method's own. By default the first of each kind."""
    by_name = {method.name: method for method in known}
    if names is None:
        first = {method.thinks: method for method in reversed(known)}
        return [first[thinks] for thinks in (False, True) if thinks in first]
    chosen = []
    for name in names:
        method = by_name.get(name.partition(":")[0])
        if method is None:
            raise CommandError(f"there is no method {name!r}", f"methods: {', '.join(by_name)}", status=2)
        if method.candidates > 1 and ":" not in name:
            name = f"{name}:{method.candidates}"
        chosen.append(msgspec.structs.replace(method, name=name))
    return chosen
