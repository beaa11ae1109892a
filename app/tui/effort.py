"""The dial of how much the next answer may think. Pure values; knows nothing of widgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.protocol import Think


@dataclass(frozen=True)
class Effort:
    """A setting among off, the model's own useful caps in tokens (ascending), and max."""

    think: Think = "max"
    steps: tuple[int, ...] = ()
    method: str = ""
    """The method, where it does not follow from the thinking."""
    budget: str = ""
    """What the whole answer may spend, as it was written; empty for no limit."""

    @property
    def level(self) -> int:
        """How many of `levels` the setting reaches: 0 is off, `levels` is max."""
        if self.think == "off":
            return 0
        if self.think == "max":
            return self.levels
        return max(1, sum(step <= self.think for step in self.steps))

    @property
    def levels(self) -> int:
        """Levels above off."""
        return len(self.steps) + 1

    def more(self) -> Effort:
        """One step up; max stays."""
        if self.think == "max":
            return self
        floor = 0 if self.think == "off" else self.think
        return replace(self, think=next((step for step in self.steps if step > floor), "max"))

    def less(self) -> Effort:
        """One step down; off stays."""
        if self.think == "off":
            return self
        ceiling = float("inf") if self.think == "max" else self.think
        return replace(self, think=next((step for step in reversed(self.steps) if step < ceiling), "off"))

    def cycled(self) -> Effort:
        """One step up, and from max to off."""
        return replace(self, think="off") if self.think == "max" else self.more()

    def step_at(self, limit: int, direction: int) -> int:
        """The change in tokens that takes a running limit to the neighboring step, up or down.

        Above the last step it is the last step again; below the first, all of the limit.
        """
        if direction > 0:
            above = next((step for step in self.steps if step > limit), None)
            return above - limit if above is not None else (self.steps[-1] if self.steps else limit or 1)
        below = next((step for step in reversed(self.steps) if step < limit), 0)
        return below - limit
