"""A trace as what it says: its paths with all their ids, and with the choices that made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.backend import Choice, Rechosen, Sampler
from engine.protocol import Sampling
from engine.protocol.trace import Passage, Trace, TracedPath, unpacked

MOST_RAISED = 1e6
"""Logits: far more than any model tells its likeliest id from the others by."""


class Damaged(ValueError):
    """A trace that contradicts itself."""


@dataclass
class Path:
    """A path with all its ids, those that it began with included, and what it chose itself."""

    candidate: str
    ids: list[int]
    root: int
    """The path with whose prompt it begins, and how long that is."""
    prompt: int
    parent: int | None
    choices: list[Choice] = field(default_factory=list)
    passages: list[tuple[Passage, int]] = field(default_factory=list)
    """With the number of choices that each made."""
    found: list[Rechosen] = field(default_factory=list)


def paths_of(trace: Trace, vocab: int) -> list[Path]:
    """The trace's paths, each with all its ids and choices. Raises Damaged."""
    paths: list[Path] = []
    if not trace.paths:
        raise Damaged("the trace is empty")
    for number, traced in enumerate(trace.paths):
        try:
            paths.append(_read(traced, paths, vocab))
        except ValueError as error:
            raise Damaged(f"path {number} of the trace is damaged: {error}") from error
    return paths


def _read(traced: TracedPath, before: Sequence[Path], vocab: int) -> Path:
    """Raises ValueError."""
    noise = int(traced.noise, 16)
    if traced.parent is None:
        path = Path(traced.candidate, unpacked(traced.prompt), len(before), 0, None)
        path.prompt = len(path.ids)
    else:
        if not 0 <= traced.parent < len(before):
            raise ValueError(f"there is no path {traced.parent} before it")
        parent = before[traced.parent]
        if not parent.prompt <= traced.begin <= len(parent.ids):
            raise ValueError(f"it begins after {traced.begin} tokens of {len(parent.ids)}")
        path = Path(traced.candidate, parent.ids[: traced.begin], parent.root, parent.prompt, traced.parent)
    for passage in traced.passages:
        _go_on(path, passage, noise)
    named = {one.id for one in path.choices}
    named.update(*(one.banned for one in path.choices))
    named.update(one.raised[0] for one in path.choices if one.raised)
    if not path.ids or not all(0 <= token < vocab for token in named.union(path.ids)):
        raise ValueError(f"not all its ids are in the vocabulary of {vocab:,}")
    return path


def _go_on(path: Path, passage: Passage, noise: int) -> None:
    """Take a passage into a path. Raises ValueError."""
    ids = unpacked(passage.ids)
    chosen = ids if passage.dropped is None else [*ids, passage.dropped]
    if passage.sampling is not None:
        sampler, banned = _sampler(passage.sampling), frozenset(passage.banned)
        raised = {one.position: (one.id, one.amount) for one in passage.raised}
        if any(abs(one.amount) > MOST_RAISED for one in passage.raised):
            raise ValueError("an id is raised beyond all measure")
        path.choices += [
            Choice(at, token, sampler, noise, banned, raised.get(at))
            for at, token in enumerate(chosen, len(path.ids))
        ]
    path.passages.append((passage, len(chosen) if passage.sampling is not None else 0))
    path.ids += ids


def _sampler(sampling: Sampling) -> Sampler:
    temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
    if temperature is None or top_p is None or top_k is None:
        raise ValueError("its sampling is not complete")
    if not (0 <= temperature < 100 and 0 < top_p <= 1 and top_k >= 0):
        raise ValueError("nothing can be sampled so")
    return Sampler(temperature, top_p, top_k, sampling.seed)
