"""Which quantization a model is loaded with: as asked for, as the profile says, or as memory has room."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import replace

import torch

from engine.load.errors import BadSpec, ModelError
from engine.load.foresee import Foreseen
from engine.load.plan import NONE, QuantPlan, matches, plan_of
from engine.load.quantizer import Quantize
from engine.load.source import Source
from engine.nn.quantized import Kind, Quantized
from engine.nn.rounding import round_matrix
from engine.nn.sizes import Sizes
from engine.protocol.quant import AUTO, parse_quant
from profiles.catalogue import Profile

_ROOM = 0.8
"""Of the free memory, what `auto` gives the weights: the rest is for keys and values."""
_SUGGESTED = 6
_STEPS: tuple[Kind | None, ...] = (None, "s8", "u4")
"""From most exact to smallest."""


def choose(quant: str | None, profile: Profile, foreseen: Foreseen, itemsize: int, free: int) -> QuantPlan:
    """The plan for a checkpoint whose plain values take `itemsize` bytes, with `free` bytes of memory.

    Raises BadSpec for what cannot be asked for, or matches nothing, ModelError for a checkpoint that is
    quantized already.
    """
    if foreseen.quantization is not None:
        if quant not in (None, NONE, AUTO):
            raise ModelError(
                f"the model is quantized already ({foreseen.quantization}), not to {quant[:40]}",
                "leave --quant out, or use the unquantized model",
            )
        return QuantPlan(reason="as in its files")
    by = "as asked for" if quant is not None else f"as the profile {profile.id} says"
    try:
        asked = parse_quant(quant or profile.quant or NONE)
    except ValueError as error:
        raise BadSpec(str(error)) from error
    plan = plan_of(asked, foreseen.tied, by)
    if quant is not None:  # a profile is for many models
        check_patterns(plan, foreseen)
    if asked.base != AUTO:
        return plan
    first = _STEPS.index(preferred(profile, foreseen.parameters))
    for base in _STEPS[first:]:
        plan = replace(plan, base=base)
        if foreseen.memory(plan, itemsize) <= free * _ROOM:
            break
    size = foreseen.memory(plan, itemsize)
    why = "what such hardware is best used with" if base == _STEPS[first] else "what the memory has room for"
    return replace(plan, reason=f"{why}: {size / 1e9:.1f} of {free / 1e9:.1f} GB free")


def check_patterns(plan: QuantPlan, foreseen: Foreseen) -> None:
    """Raises BadSpec for an exception that is meant for no matrix of the model."""
    paths = [name.removesuffix(".weight") for name in foreseen.matrices]
    called = [name for name, _ in Counter(path.rpartition(".")[2] for path in paths).most_common()]
    for pattern, _ in plan.exceptions:
        if not any(matches(pattern, path) for path in paths):
            near = difflib.get_close_matches(pattern.rpartition(".")[2], called)
            names = list(dict.fromkeys([*near, *called]))[:_SUGGESTED]
            raise BadSpec(
                f"no matrix of this model that can be quantized matches {pattern[:60]!r}",
                f"its matrices are called {', '.join(names)}; a pattern is for the end of a path",
            )


def preferred(profile: Profile, parameters: int) -> Kind | None:
    """What a model of so many parameters is best kept in on such hardware, memory apart."""
    if profile.kind == "cpu":
        return "s8"
    memory = (profile.memory_bytes or 0) / 2**30
    if memory <= 8:
        return "u4" if parameters > 3e9 else None
    if memory <= 24:
        return "s8" if parameters > 8e9 else None
    return None


def smallest(foreseen: Foreseen, itemsize: int, room: int) -> str | None:
    """The most exact `--quant` with which a checkpoint takes no more than so many bytes, if there is one."""
    if foreseen.quantization is not None:
        return None
    plans = (QuantPlan(kind, tied=foreseen.tied) for kind in _STEPS[1:])
    return next((plan.name for plan in plans if foreseen.memory(plan, itemsize) <= room), None)


def quantize_by(plan: QuantPlan) -> Quantize:
    """What loading does to each matrix by a plan."""

    def quantize(name: str, values: torch.Tensor) -> Quantized | None:
        shape = tuple(values.shape)
        kind = plan.kind(name, shape)
        return round_matrix(values, kind, plan.group(name, shape)) if kind else None

    return quantize


def described(plan: QuantPlan, source: Source, sizes: Sizes) -> str | None:
    """As a person reads it: what, why, and how many matrices became what; None where nothing is quantized."""
    name = source.quantization or (plan.name if plan else None)
    if name is None:
        return None
    counts = ", ".join(f"{count} × {kind}" for kind, count in sizes.kinds.items())
    return f"{name} ({plan.reason}): {counts or 'no matrix'}"
