"""How answers to a question may go, way by way: as those to like questions went, or guessed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.protocol import ModelInfo, Think
from engine.protocol.calibration import CalibrationRecord, Outcomes
from engine.tasks.features import features
from engine.thinking.planner.likeness import most_like

PRIOR = 4.0
"""Like questions that a way's accuracy on all questions counts as much as."""
GUESSED_ANSWER = (40, 400)
"""Median and 90th percentile of a visible answer's tokens where nobody has measured them."""
GUESSED_THOUGHT = (0.6, 1.0)
"""The same of a thought, as shares of its cap."""
UNCAPPED = 4
"""How many times the model's largest useful cap a thought without one may take."""
SHARES = np.linspace(0.05, 0.95, 19)

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Beta:
    """What is believed of an accuracy: Beta(right, wrong)."""

    right: float
    wrong: float

    @property
    def mean(self) -> float:
        return self.right / (self.right + self.wrong)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by the normal approximation, within 0..1."""
        count, mean = self.right + self.wrong, self.mean
        half = 1.96 * (mean * (1 - mean) / (count + 1)) ** 0.5
        return max(0.0, mean - half), min(1.0, mean + half)


@dataclass(frozen=True)
class Results:
    """Which of some answers were right (1 or 0), and how often all of the way's answers were."""

    right: Figures
    overall: float

    def accuracy(self, counted: NDArray[np.bool_] | None = None) -> Beta:
        """Of answers like these, where those that are not counted are as good as wrong."""
        share = 1.0 if counted is None else float(counted.mean())
        solved = float(self.right.sum() if counted is None else self.right[counted].sum())
        prior = PRIOR * self.overall * share
        return Beta(solved + prior, len(self.right) + PRIOR - solved - prior)


@dataclass(frozen=True)
class Course:
    """A way to answer, and the courses that answers may take: all their tokens, and those in sequence.

    `results` are those of the same answers; None where nobody has measured any.
    """

    method: str
    think: Think
    tokens: Figures
    path: Figures
    results: Results | None


def measured(record: CalibrationRecord, question: str) -> list[Course]:
    """As the record has it of the questions most like this one."""
    places = most_like(features(question), record.questions)
    return [_course(outcomes, places) for outcomes in record.outcomes]


def _course(outcomes: Outcomes, places: NDArray[np.intp]) -> Course:
    right = np.array(outcomes.right, dtype=np.float64)
    return Course(
        outcomes.method,
        outcomes.think,
        np.array(outcomes.tokens, dtype=np.float64)[places],
        np.array(outcomes.path, dtype=np.float64)[places],
        # half a question either way: none is certain
        Results(right[places], float(right.sum() + 0.5) / (len(right) + 1)),
    )


def guessed(info: ModelInfo) -> list[Course]:
    """From the model's own useful caps alone; of accuracies nothing can be said."""
    middle, most = GUESSED_ANSWER
    answer = _spread(min(middle, info.answer_reserve or middle), info.answer_reserve or most)
    courses = [Course("direct", "off", answer, answer, None)]
    if info.thinking_format is None or not info.think_steps:
        return courses
    low, high = GUESSED_THOUGHT
    for cap in info.think_steps:
        path = answer + _spread(low * cap, high * cap)
        courses.append(Course("cot", cap, path, path, None))
    path = answer + _spread(info.think_steps[-1], min(UNCAPPED * info.think_steps[-1], info.context))
    return [*courses, Course("cot", "max", path, path, None)]


def _spread(median: float, high: float) -> Figures:
    """Values with this median and this 90th percentile, log-normal."""
    deviations = np.array([_normal(share) for share in SHARES])
    return np.asarray(median * (max(high, median) / median) ** (deviations / _normal(0.9)))


def _normal(share: float) -> float:
    """The standard normal's quantile."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
