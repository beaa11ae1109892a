"""How much an answer may think: from what was asked and what the context leaves to a lease.

The soft phase, the grace, the forced phrase and the answer's reserve all lie inside the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.backend import Lease
from engine.protocol import Think

RESERVE_TOKENS = 64
RESERVE_SHARE = 0.1
"""The answer keeps max(64 tokens, 10 % of the room that is left), but never more than half of it."""


@dataclass
class ThinkingBudget:
    """The tokens that the thoughts of one answer may take, over every time that it opens one.

    `limit` includes the forced phrase of `phrase` tokens that ends the thought; `room` is what the context
    leaves to thinking when the answer has its reserve. Both bounds move with `more`.
    """

    limit: int
    room: int
    phrase: int
    lease: Lease
    note: str | None = None
    """Why there is less thinking than was asked for."""

    @property
    def thinks(self) -> bool:
        return self.limit > 0

    @property
    def exhausted(self) -> bool:
        """Nothing may be thought any more."""
        return self.lease.ended or self.lease.used >= self.lease.limit

    def more(self, tokens: int) -> None:
        """Raise or lower the limit while it runs; below what was used it ends the thinking at once."""
        self.limit = max(0, min(self.limit + tokens, self.room))
        self.lease.limit = max(0, self.limit - self.phrase)


def reserve(room: int) -> int:
    """Tokens kept for the answer out of the room that the prompt leaves."""
    return min(max(RESERVE_TOKENS, int(room * RESERVE_SHARE)), room // 2)


def plan(think: Think, room: int, phrase: int) -> ThinkingBudget:
    """The budget for `think` where the prompt leaves `room` tokens of context.

    `phrase` tokens open and end a thought. A budget that cannot hold them and one token of thought means
    thinking off, and says so.
    """
    available = room - reserve(room)
    wanted = 0 if think == "off" else available if think == "max" else int(think)
    limit = min(wanted, available)
    note = None
    if wanted > 0 and limit < phrase + 1:
        note = (
            f"thinking is off: {wanted} tokens cannot hold a thought and the {phrase} tokens around it"
            if wanted <= available
            else f"thinking is off: the prompt leaves {room} tokens of context, too few to think in"
        )
        limit = 0
    elif think != "max" and limit < wanted:
        note = f"thinking is limited to the {limit} tokens that the context leaves"
    return ThinkingBudget(limit, available, phrase, Lease(max(0, limit - phrase)), note)
