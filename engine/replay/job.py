"""Recomputes an answer from its trace: each choice again, in one pass for each path. Knows no torch.

Noise follows from seed, path, position and id alone, so that it is nothing to an answer whether it was
computed by itself, beside others, with guesses or after having given way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from engine.backend import Backend, Choice, OutOfContext, Rechosen
from engine.protocol.replay import Difference, Mismatch, PathReplay, Replaying, ReplayReport, ReplayRequest
from engine.replay.checks import checked
from engine.replay.paths import Damaged, Path, paths_of
from engine.speed import Stop
from engine.thinking.refusals import UsageError

TOLERANCES = {"bf16": 0.25, "fp8": 0.25, "fp16": 0.06, "int8": 0.02}
"""Logits, by what a kernel class names. Between decode and prefill a passage's mean moved by 0.025 with bf16
on the bundled model, by 0.006 with fp16, and by 3e-4 with keys and values in int8: single ones move more."""
TOLERANCE = 2e-3
"""Of all others, where it moved by 5e-6."""


async def replay(
    request: ReplayRequest, backend: Backend, emit: Callable[[Replaying], None], stop: Stop
) -> ReplayReport:
    """The report, with events on the way. Raises UsageError and `engine.speed.Stopped`."""
    answer, trace = request.answer, request.answer.trace
    if trace is None:
        raise UsageError("this answer was not recorded", "ask with --save or --trace to have it so")
    recorded = answer.receipt.environment.kernel_class
    allowed = max(tolerance(recorded), tolerance(backend.kernel_class))
    differences: list[Difference] = []
    notes: list[str] = []
    try:
        paths = paths_of(trace, backend.shape.vocab)
    except Damaged as error:
        differences.append(Difference("trace", str(error)))
        paths = []
    if recorded != backend.kernel_class:
        notes.append(f"recorded with {recorded}, recomputed with {backend.kernel_class}")
    elif backend.info.fingerprint != trace.fingerprint:
        notes.append("other versions of what computes, or other files, than when it was recorded")
    if paths:
        differences += await checked(request, trace, paths, backend)
        await _recompute(paths, backend, emit, stop)
    replays = tuple(_path(path, backend, allowed) for path in paths if path.choices)
    differences += [found for one in replays if (found := _told(one, allowed)) is not None]
    return ReplayReport(
        model=backend.info.name,
        method=answer.method,
        recorded=recorded,
        replayed=backend.kernel_class,
        tolerance=allowed,
        paths=replays,
        differences=tuple(differences),
        notes=tuple(notes),
    )


def tolerance(kernel_class: str) -> float:
    """By how much logits may differ that were computed by such kernels, added up in different orders."""
    return max(TOLERANCES.get(word, TOLERANCE) for word in kernel_class.split("-"))


async def _recompute(
    paths: list[Path], backend: Backend, emit: Callable[[Replaying], None], stop: Stop
) -> None:
    """Make the choices of all paths again, those of one prompt together. Raises UsageError, Stopped."""
    roots: dict[int, list[Path]] = {}
    for path in paths:
        if path.choices:
            roots.setdefault(path.root, []).append(path)
    done, total = (
        0,
        sum(group[0].prompt + sum(len(path.ids) - path.prompt for path in group) for group in roots.values()),
    )

    def told(tokens: int) -> None:
        nonlocal done
        done += tokens
        emit(Replaying(done=done, total=total))

    for root, group in roots.items():
        prompt = paths[root].ids[: paths[root].prompt]
        asked = [(path.ids[path.prompt :], path.choices) for path in group]
        try:
            found = await backend.rechoose(prompt, asked, stop.lend(0), told)
        except MemoryError as error:
            raise UsageError(str(error), "wait until other answers have ended") from error
        except OutOfContext as error:
            raise UsageError(str(error), "replay with the model that answered") from error
        stop.check()
        for path, rechosen in zip(group, found, strict=True):
            path.found = rechosen


def _path(path: Path, backend: Backend, allowed: float) -> PathReplay:
    pairs = list(zip(path.choices, path.found, strict=True))
    failed = [(choice, found) for choice, found in pairs if choice.id != found.id]
    close = sum(found.margin <= allowed for _, found in failed)
    shift, at = 0.0, 0
    for passage, choices in path.passages:
        if choices:
            logits = sum(found.logit for found in path.found[at : at + choices])
            shift = max(shift, abs(logits - passage.logits) / choices)
            at += choices
    # the first that rounding does not explain says more than one that it does
    worse = [pair for pair in failed if pair[1].margin > allowed]
    return PathReplay(
        candidate=path.candidate,
        choices=len(pairs),
        agreed=len(pairs) - len(failed),
        close=close,
        shift=shift,
        first=_mismatch(path.candidate, *(worse or failed)[0], backend, allowed) if failed else None,
    )


def _mismatch(candidate: str, choice: Choice, found: Rechosen, backend: Backend, allowed: float) -> Mismatch:
    verdict: Literal["close", "different"] = "close" if found.margin <= allowed else "different"
    return Mismatch(
        candidate=candidate,
        position=choice.position,
        recorded=choice.id,
        recorded_text=backend.tokenizer.decode([choice.id]),
        recomputed=found.id,
        recomputed_text=backend.tokenizer.decode([found.id]),
        margin=found.margin if found.margin < float("inf") else None,
        verdict=verdict,
    )


def _told(path: PathReplay, allowed: float) -> Difference | None:
    """What is different on a path, in one line."""
    name = f"candidate {path.candidate}" if path.candidate else "the prompt's path"
    if path.first is not None and path.first.verdict == "different":
        first = path.first
        behind = "which was banned" if first.margin is None else f"behind by {first.margin:.3g}"
        others = path.choices - path.agreed - path.close - 1
        return Difference(
            "choices",
            f"{name}, token {first.position}: {first.recorded_text!r} was recorded ({behind}), "
            f"{first.recomputed_text!r} is chosen" + (f", and {others} more differ" if others else ""),
        )
    if path.shift > allowed:
        return Difference(
            "logits", f"{name}: the same choices, but of logits that differ by {path.shift:.3g} on average"
        )
    return None
