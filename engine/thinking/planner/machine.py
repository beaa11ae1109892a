"""From tokens to seconds, joules and FLOPs on this device: by its measured curve, or by the roofline."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.protocol.calibration import DeviceCurve, StepTime
from profiles.catalogue import Profile
from profiles.costs import decode_bytes, decode_flops, prefill_bytes, prefill_flops, roofline_seconds
from profiles.shape import ModelShape

GUESSED_ROWS = (1, 2, 4, 8, 16, 32, 64)
GUESSED_CONTEXT = 256
SLOWER = 3.0
"""How many times as long as the roofline allows a step is taken to last where nobody has measured it."""

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """A model on a device. `prefill_token_s` and `watts` are None where nobody knows."""

    shape: ModelShape
    steps: tuple[StepTime, ...]
    prefill_token_s: float | None
    watts: float | None
    """Drawn while it works."""
    measured: bool

    def seconds(self, prompt: int, path: Figures, tokens: Figures) -> Figures | None:
        """Of answers of `tokens` tokens, `path` of them one after another, to a prompt of so many."""
        if self.prefill_token_s is None:
            return None
        rows = tokens / np.maximum(path, 1)
        step = np.array([self.step_seconds(float(each)) for each in rows])
        return prompt * self.prefill_token_s + path * step

    def step_seconds(self, rows: float) -> float:
        """A decode step that goes on with so many answers, between the measured ones on a straight line."""
        first, last = self.steps[0], self.steps[-1]
        if rows <= first.rows:
            return first.seconds
        for below, above in pairwise(self.steps):
            if rows <= above.rows:
                share = (rows - below.rows) / (above.rows - below.rows)
                return below.seconds + share * (above.seconds - below.seconds)
        return last.seconds * rows / last.rows

    def flops(self, prompt: int, path: Figures, tokens: Figures) -> Figures:
        """Of the same answers, by the one cost formula; the prompt is computed once for all candidates."""
        begun = prefill_flops(self.shape, prompt).total
        costs = []
        for steps, total in zip(path, tokens, strict=True):
            candidates = max(1.0, total / max(steps, 1))
            each = round(total / candidates)
            costs.append(begun + candidates * prefill_flops(self.shape, each, prompt, logits_rows=each).total)
        return np.array(costs)


def machine(
    shape: ModelShape,
    profile: Profile,
    dtype: str,
    curve: DeviceCurve | None,
    watts: float | None,
) -> Machine:
    """By the curve where there is one."""
    if curve is not None and curve.steps and curve.prefill_tok_s > 0:
        return Machine(shape, curve.steps, 1 / curve.prefill_tok_s, watts, measured=True)
    steps = []
    for rows in GUESSED_ROWS:
        contexts = [GUESSED_CONTEXT] * rows
        least = roofline_seconds(
            decode_flops(shape, *contexts).total, decode_bytes(shape, *contexts).total, profile, dtype
        )
        if least is None:
            return Machine(shape, (), None, watts, measured=False)
        steps.append(StepTime(rows, SLOWER * least))
    whole = GUESSED_CONTEXT
    prefill = roofline_seconds(
        prefill_flops(shape, whole).total, prefill_bytes(shape, whole).total, profile, dtype
    )
    assert prefill is not None  # as for the steps
    return Machine(shape, tuple(steps), SLOWER * prefill / whole, watts, measured=False)
