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

    `limit` includes what is forced: opening a thought, and the phrase of `phrase` tokens that ends one, which
    is kept back from the lease until it is spent. `room` is the most that the limit can be raised to.
    """

    limit: int
    room: int
    phrase: int
    lease: Lease
    note: str | None = None
    """Why there is less thinking than was asked for."""
    least: int = 0
    """Tokens, forced ones included, below which the model is not let end its thoughts."""
    forced: int = 0
    dropped: int = 0
    """Of those sampled, ends that came too early."""
    ceiling: int | None = None
    """What the purse leaves of the limit; None where it does not bind."""

    def another(self) -> ThinkingBudget:
        """As much for another candidate, of which nothing is spent."""
        lease = Lease(self.lease.limit, ended=self.lease.ended, cancelled=self.lease.cancelled)
        return ThinkingBudget(self.limit, self.room, self.phrase, lease, least=self.least)

    @property
    def thinks(self) -> bool:
        return self.limit > 0

    @property
    def bound(self) -> int:
        """The limit, or what the purse leaves of it."""
        return self.limit if self.ceiling is None else min(self.limit, self.ceiling)

    @property
    def exhausted(self) -> bool:
        """Nothing may be thought any more."""
        return self.lease.ended or self.lease.used >= self.lease.limit

    @property
    def too_short(self) -> bool:
        """The model has not thought as much as it was told to, and may go on."""
        return self.lease.used + self.forced - self.dropped < self.least and not self.exhausted

    def more(self, tokens: int) -> None:
        """Raise or lower the limit while it runs; below what was used it ends the thinking at once."""
        self.limit = max(0, min(self.limit + tokens, self.room))
        self._fit_lease()

    def hold(self, left: int | None, reserve: int) -> int:
        """Keep to what the purse leaves, in tokens; returns those of them that are not for thoughts: the
        answer's reserve, at most half of all.
        """
        kept = 0
        if left is None:
            self.ceiling = None
        else:
            used = self.lease.used + self.forced
            kept = min(reserve, (used + left) // 2)
            self.ceiling = used + left - kept
        self._fit_lease()
        return kept

    def charge(self, tokens: int) -> None:
        """Tokens were forced."""
        self.forced += tokens
        self._fit_lease()

    def may_reopen(self, context_left: int) -> bool:
        """Whether another thought may be opened where the context has this many tokens left.

        It then holds the thought to what leaves the answer its reserve.
        """
        self.room = min(self.room, self.lease.used + self.forced + context_left - reserve(context_left))
        self.limit = min(self.limit, self.room)
        self._fit_lease()
        return self.thinks and not self.exhausted

    def _fit_lease(self) -> None:
        self.lease.limit = max(0, self.bound - self.forced - self.phrase)


def reserve(room: int) -> int:
    """Tokens kept for the answer out of the room that the prompt leaves."""
    return min(max(RESERVE_TOKENS, int(room * RESERVE_SHARE)), room // 2)


def plan(
    think: Think, room: int, opening: int, phrase: int, *, purse: int | None = None, answer: int | None = None
) -> ThinkingBudget:
    """The budget for `think` where the prompt leaves `room` tokens of context, and the purse so many.

    `opening` tokens are forced to open the thought and `phrase` to end it. `answer` are those that nearly
    all answers fit into, where that is known. A budget that cannot hold these and one token of thought means
    thinking off, and says so.
    """
    most = room - reserve(room)
    ceiling = None if purse is None else purse - min(answer or RESERVE_TOKENS, purse // 2)
    available = most if ceiling is None else min(most, ceiling)
    wanted = 0 if think == "off" else most if think == "max" else int(think)
    limit = min(wanted, available)
    around = opening + phrase
    whose, left = ("the context", room) if purse is None or room < purse else ("the budget", purse)
    note = None
    if wanted > 0 and limit < around + 1:
        note = (
            f"thinking is off: {wanted} tokens cannot hold a thought and the {around} tokens around it"
            if think != "max" and wanted <= available
            else f"thinking is off: {whose} leaves {left} tokens after the prompt, too few to think in"
        )
        return ThinkingBudget(0, most, phrase, Lease(0), note)
    if think != "max" and limit < wanted:
        note = f"thinking is limited to the {limit} tokens that {whose} leaves"
    lease = Lease(max(0, limit - phrase))
    return ThinkingBudget(min(wanted, most), most, phrase, lease, note, ceiling=ceiling)
