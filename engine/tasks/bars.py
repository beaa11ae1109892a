"""What the bundled model is held to: every bar with what was measured, over how many problems.

Each figure comes from held-out problems of a tier (registry.py); nothing here trains or chooses a model.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from engine.tasks.examinee import Examinee, Reply
from engine.tasks.problem import Problem
from engine.tasks.registry import FAMILIES, problem_set
from engine.tasks.steps import CHECK_PHRASE, first_wrong_line

CAPS = (8, 16, 32)
SAMPLES = 8
TEMPERATURE = 0.8
_SHARPNESS = 40.0  # a vote weighs exp(40 x mean log-probability)


@dataclass(frozen=True)
class Bar:
    """One bar: what was measured, over so many problems, and the least that is asked for."""

    name: str
    measured: float
    least: float
    problems: int

    @property
    def reached(self) -> bool:
        """Whether the bar is reached."""
        return self.measured >= self.least


def _accuracy(problems: Sequence[Problem], answers: Sequence[str | None]) -> float:
    return sum(_right(problem, answer) for problem, answer in zip(problems, answers, strict=True)) / len(
        problems
    )


def _right(problem: Problem, answer: str | None) -> bool:
    return answer is not None and problem.accepts(answer)


def _answers(replies: Sequence[Reply]) -> list[str | None]:
    return [reply.answer for reply in replies]


def _questions(problems: Sequence[Problem]) -> list[str]:
    return [problem.question for problem in problems]


def _by_family(problems: Sequence[Problem], answers: Sequence[str | None]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for problem, answer in zip(problems, answers, strict=True):
        found.setdefault(problem.family, []).append(_right(problem, answer))
    return {family: sum(hits) / len(hits) for family, hits in found.items()}


def measure(examinee: Examinee, problems: int, seed: int) -> dict[str, Any]:
    """All bars and the figures behind them, as plain values for JSON.

    `problems` are those of the standard tier; the others have a share of them.
    """
    details: dict[str, Any] = {}
    bars = [
        *_thinking_bars(examinee, problem_set(problems, seed), details),
        *_sampling_bars(
            examinee, problem_set(max(len(FAMILIES), problems // 6), seed, tier="hard"), seed, details
        ),
        *_planted_bars(examinee, problem_set(problems // 3, seed + 1), seed, details),
        *_tier_bars(examinee, problems // 3, seed, details),
        *_long_bars(examinee, problems // 9, seed, details),
    ]
    return {"bars": [asdict(bar) | {"reached": bar.reached} for bar in bars], "details": details}


def _thinking_bars(examinee: Examinee, problems: list[Problem], details: dict[str, Any]) -> list[Bar]:
    questions = _questions(problems)
    full = examinee.answer_in_full(questions)
    modes = {"off": _answers(examinee.answer_directly(questions))}
    modes |= {str(cap): _answers(examinee.answer_capped(questions, full, cap)) for cap in CAPS}
    modes["full"] = _answers(full)
    accuracy = {mode: _accuracy(problems, answers) for mode, answers in modes.items()}
    families = _by_family(problems, modes["full"])
    lengths = {
        family: sum(len(r.thought) for p, r in zip(problems, full, strict=True) if p.family == family)
        / sum(p.family == family for p in problems)
        for family in families
    }
    details["standard"] = {
        "accuracy": accuracy,
        "full by family": families,
        "off by family": _by_family(problems, modes["off"]),
        "mean thinking tokens by family": lengths,
        "thoughts that never closed": sum(reply.answer is None for reply in full),
    }
    values = list(accuracy.values())
    n = len(problems)
    lowest = min((name for name in families if not FAMILIES[name].long), key=families.__getitem__)
    return [
        Bar("full, overall", accuracy["full"], 0.94, n),
        Bar(f"full, lowest family ({lowest})", families[lowest], 0.80, n // len(families)),
        Bar("full minus off", accuracy["full"] - accuracy["off"], 0.55, n),
        Bar(
            "smallest step between caps 0, 8, 16, 32, full",
            min(b - a for a, b in pairwise(values)),
            0.05,
            n,
        ),
    ]


def _voted(replies: Sequence[Reply], weighted: bool) -> str | None:
    """The answer with most votes, or most weight; the first of equals."""
    votes: dict[str, float] = {}
    for reply in replies:
        if reply.answer is not None:
            weight = math.exp(_SHARPNESS * reply.mean_logprob) if weighted else 1.0
            votes[reply.answer] = votes.get(reply.answer, 0.0) + weight
    return max(votes, key=votes.__getitem__) if votes else None


def _verified(examinee: Examinee, problem: Problem, replies: Sequence[Reply]) -> str | None:
    """The weighted vote of the replies that pass: an exact verifier, or a thought without a wrong line."""
    if problem.verifier is not None and problem.family == "countdown":
        passed = [r for r in replies if _right(problem, r.answer)]
    else:
        passed = [r for r in replies if first_wrong_line(examinee.text_of(r.thought)) is None]
    return _voted(passed or replies, weighted=True)


def _sampling_bars(
    examinee: Examinee, problems: list[Problem], seed: int, details: dict[str, Any]
) -> list[Bar]:
    questions = _questions(problems)
    greedy = _accuracy(problems, _answers(examinee.answer_in_full(questions)))
    drawn = examinee.sample(questions, SAMPLES, TEMPERATURE, seed)
    single = sum(_accuracy(problems, [r[i].answer for r in drawn]) for i in range(SAMPLES)) / SAMPLES
    plain = _accuracy(problems, [_voted(replies, weighted=False) for replies in drawn])
    weighted = _accuracy(problems, [_voted(replies, weighted=True) for replies in drawn])
    verified = _accuracy(problems, [_verified(examinee, p, r) for p, r in zip(problems, drawn, strict=True)])
    oracle = sum(
        any(_right(p, reply.answer) for reply in r) for p, r in zip(problems, drawn, strict=True)
    ) / len(problems)
    details["hard"] = {
        "greedy": greedy,
        "single": single,
        "majority of 8": plain,
        "weighted majority of 8": weighted,
        "best of 8 by exact or step verifier": verified,
        "oracle of 8": oracle,
    }
    n = len(problems)
    return [
        Bar("hard: weighted majority of 8 minus single", weighted - single, 0.05, n),
        Bar("hard: best of 8 by verifier minus single", verified - single, 0.15, n),
        Bar("hard: weighted majority of 8 minus greedy", weighted - greedy, -0.01, n),
    ]


def _planted_bars(
    examinee: Examinee, problems: list[Problem], seed: int, details: dict[str, Any]
) -> list[Bar]:
    """Thoughts whose last line is wrong, left alone or, where the step checker finds it, told to check."""
    rng = random.Random(seed)
    asked: list[Problem] = []
    begun: list[str] = []
    for problem in problems:
        steps = [s for s in problem.slippable if s < len(problem.solution.lines)]
        if steps:
            step = rng.choice(steps)
            lines = problem.solve_with_mistake(step, rng.getrandbits(32)).lines[: step + 1]
            asked.append(problem)
            begun.append("".join(line + "\n" for line in lines))
    found = [first_wrong_line(thought) is not None for thought in begun]
    checked = [t + CHECK_PHRASE + "\n" if hit else t for t, hit in zip(begun, found, strict=True)]
    off, on = (_answers(examinee.answer_after(_questions(asked), thoughts)) for thoughts in (begun, checked))
    readable = [i for i, hit in enumerate(found) if hit]
    details["planted"] = {
        "problems": len(asked),
        "found by the step checker": sum(found) / len(found),
        "off": _accuracy(asked, off),
        "on": _accuracy(asked, on),
    }
    problems = [asked[i] for i in readable]
    alone, told = (_accuracy(problems, [answers[i] for i in readable]) for answers in (off, on))
    details["planted"] |= {"off, where it was found": alone, "on, where it was found": told}
    return [Bar("planted mistake, step checker on minus off", told - alone, 0.50, len(readable))]


def _tier_bars(examinee: Examinee, count: int, seed: int, details: dict[str, Any]) -> list[Bar]:
    bars = []
    for tier, least in (("unseen wording", 0.75), ("unseen length", None)):
        problems = problem_set(count, seed, tier=tier)  # type: ignore[arg-type]
        answers = _answers(examinee.answer_in_full(_questions(problems)))
        accuracy = _accuracy(problems, answers)
        details[tier] = {
            "problems": count,
            "accuracy": accuracy,
            "by family": _by_family(problems, answers),
        }
        if least is not None:
            bars.append(Bar(f"{tier}, full", accuracy, least, count))
    return bars


def _long_bars(examinee: Examinee, count: int, seed: int, details: dict[str, Any]) -> list[Bar]:
    families = [family.name for family in FAMILIES.values() if family.long]
    problems = problem_set(count, seed + 2, families=families)
    questions = _questions(problems)
    full, off = _answers(examinee.answer_in_full(questions)), _answers(examinee.answer_directly(questions))
    details["long"] = {"full": _by_family(problems, full), "off": _by_family(problems, off)}
    by_full, by_off = details["long"]["full"], details["long"]["off"]
    each = count // len(families)
    return [
        Bar("long thoughts, full, lower family", min(by_full.values()), 0.60, each),
        Bar("long thoughts, full minus off", min(by_full[f] - by_off[f] for f in families), 0.40, each),
    ]
