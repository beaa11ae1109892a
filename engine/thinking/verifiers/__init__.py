"""Who chooses among several answers: one file each, and the choice of one, which never fails."""

from __future__ import annotations

from collections.abc import Sequence

from engine.backend import OutOfContext
from engine.protocol import AnswerType, Verifier
from engine.thinking.context import Context
from engine.thinking.refusals import UsageError
from engine.thinking.verifiers import sureness
from engine.thinking.verifiers.asked import by_consistency, by_judge
from engine.thinking.verifiers.judgement import CannotJudge, Judgement
from engine.thinking.verifiers.tests import by_tests


async def judged(
    ctx: Context, candidates: Sequence[Context], labels: Sequence[str], kind: AnswerType
) -> Judgement:
    """How much each candidate's vote weighs, by the verifier that was asked for or that fits the type.

    One that fails gives way to confidence, and the rule says so. `labels` are the answers as compared, empty
    where there is none. Raises Cancelled.
    """
    named = [one for one, label in zip(candidates, labels, strict=True) if label]
    try:
        return await _by(ctx, named, labels, kind, ctx.verifier)
    except (CannotJudge, UsageError, OutOfContext, MemoryError) as error:
        why = str(error)
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    name = ctx.verifier.name if ctx.verifier is not None else "consistency"
    spare = sureness.by_confidence(named)
    return Judgement(spare.weights, f"{spare.rule}, for {name} could not judge ({why})")


async def _by(
    ctx: Context,
    named: Sequence[Context],
    labels: Sequence[str],
    kind: AnswerType,
    verifier: Verifier | None,
) -> Judgement:
    match verifier.name if verifier is not None else None:
        case "confidence":
            return sureness.by_confidence(named)
        case "steps":
            return sureness.by_steps(named)
        case "tests":
            assert verifier is not None
            return await by_tests(named, verifier.tests)
        case "judge":
            return await by_judge(ctx, _first_of_each(named, labels))
        case "consistency":
            return await by_consistency(ctx, _first_of_each(named, labels))
    if kind != "text":
        return sureness.by_steps(named)
    ranked = sureness.by_certainty(named)
    texts = _first_of_each(named, labels)
    if len(texts) < 2 or len(texts) < len(named) or ctx.hurried:
        return ranked  # some agree, and that decides
    texts.sort(key=lambda one: -ranked.weights[one.candidate])
    return await by_consistency(ctx, texts)


def _first_of_each(named: Sequence[Context], labels: Sequence[str]) -> list[Context]:
    """One candidate for each answer, of the most frequent answers first."""
    said = [label for label in labels if label]
    groups: dict[str, Context] = {}
    for one, label in zip(named, said, strict=True):
        groups.setdefault(label, one)
    return [groups[label] for label in sorted(groups, key=lambda label: -said.count(label))]
