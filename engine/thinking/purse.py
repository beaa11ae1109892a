"""What an answer may spend in all, and how many tokens that leaves each of its candidates.

Tokens and FLOPs are counted: each candidate has a part of its own, which no other can spend, so that the sum
holds exactly. Seconds and joules are clocked: what is left of them is left to all that run beside each other.
Knows no torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import structs

from engine.backend import Account, Backend, Forwarded, Node
from engine.meter.energy import Joules
from engine.meter.receipt import Clock
from engine.meter.spending import Spending, Spent, spent
from engine.meter.tally import roofline_dtype
from engine.protocol import Budgeted, BudgetUnit, Limit, Quantity, Receipt, derived, measured
from engine.thinking.refusals import UsageError
from profiles.costs import (
    decode_bytes,
    decode_flops,
    prefill_bytes,
    prefill_flops,
    roofline_seconds,
    span_flops,
)

RECENT = 8
"""Gaps between tokens from which the time of the next step is told."""
CLOSING_S = 0.004
"""Kept back of seconds for what comes after the last token: the receipt."""


@dataclass(eq=False)
class Share:
    """A candidate's part of the counted units; `inf` where there is no limit."""

    purse: Purse
    node: Node
    spending: Spending
    tokens: float = 0.0
    flops: float = 0.0
    closed: bool = False

    def left(self) -> int | None:
        """Tokens that the node may still be given, by the unit that binds most; None for no limit."""
        if not self.purse.limited:
            return None
        # the path's length first: what is forwarded while the account is read must not look unspent
        pending, length = int(self.node.pending is not None), len(self.node.ids)
        left = min(self._counted(length - pending) - pending, self.purse.steps_left())
        return 0 if left < 1 else int(min(left, self.purse.longest))

    def _counted(self, cached: int) -> float:
        if not self.purse.counted:
            return math.inf
        spent_by_now = self.spending.now()
        tokens = self.tokens - spent_by_now.tokens
        flops = self.flops - spent_by_now.flops
        return tokens if math.isinf(flops) else min(tokens, self.purse.tokens_for(flops, cached, tokens))


class Purse:
    """The limits of one answer, and what is spent of them."""

    def __init__(self, limits: Sequence[Limit], backend: Backend, clock: Clock) -> None:
        self._limits: dict[BudgetUnit, float] = {limit.unit: limit.amount for limit in limits}
        self._backend = backend
        self._clock = clock
        self._raised: set[BudgetUnit] = set()
        self._before = Spent()
        self._shares: list[Share] = []
        self._step_s: float | None = None
        self._joules = (
            Joules(backend.profile, backend.info, backend.energy, clock.began_ns)
            if "J" in self._limits
            else None
        )

    @property
    def limited(self) -> bool:
        return bool(self._limits)

    @property
    def longest(self) -> int:
        """Tokens that no path can have more of."""
        return self._backend.info.context

    @property
    def counted(self) -> bool:
        """Whether there is a limit on tokens or FLOPs: guesses that may be wrong are then not made."""
        return not self._limits.keys().isdisjoint({"tok", "FLOP"})

    @property
    def clocked(self) -> bool:
        """Whether there is a limit that is nearer by the moment."""
        return not self._limits.keys().isdisjoint({"s", "J"})

    def charge(self, hidden: Iterable[Account]) -> None:
        """Work that was done for the answer before it began."""
        for account in hidden:
            self._before += spent(self._backend, account)

    def room(self, prompt: int, cached: int) -> int | None:
        """Tokens that the counted units leave after a prompt of which some are cached; None for no limit.

        Raises UsageError where not even one is left.
        """
        if not self.counted:
            return None
        new = prompt - cached
        flops = prefill_flops(self._backend.shape, new, cached).total
        tokens_left = self._limit("tok") - self._before.tokens - new
        flops_left = self._limit("FLOP") - self._before.flops - flops
        left = min(tokens_left, self.tokens_for(flops_left, prompt, tokens_left))
        if left < 1:
            unit: BudgetUnit = "tok" if tokens_left < 1 else "FLOP"
            needed = self._before.tokens + new if unit == "tok" else self._before.flops + flops
            raise UsageError(
                f"the prompt alone takes {_amount(needed, unit)} of the budget of "
                f"{_amount(self._limits[unit], unit)}",
                "allow more, or ask something shorter",
            )
        return int(left)

    def tokens_for(self, flops: float, cached: int, most: float) -> float:
        """How many decode steps on top of `cached` tokens so many FLOPs pay for; looked for up to `most`."""
        if math.isinf(flops):
            return most
        low, high = 0, int(min(most, self.longest))
        while low < high:
            middle = (low + high + 1) // 2
            fits = span_flops(self._backend.shape, middle, cached) <= flops
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def open(self, node: Node) -> Share:
        """All that is left, for a node."""
        return self.split(None, [node])[0]

    def split(self, parent: Share | None, nodes: Sequence[Node]) -> list[Share]:
        """A part each for nodes that go on from one whose share ends here, or of what nobody has.

        A node that had a share before goes on with it.
        """
        known = {id(share.node): share for share in self._shares}
        earlier = [known[id(node)] for node in nodes if id(node) in known]
        for share in earlier:
            self.close(share)
        if parent is not None and not parent.closed:
            done = parent.spending.now()
            tokens, flops = parent.tokens - done.tokens, parent.flops - done.flops
            self.close(parent)
        else:
            tokens, flops = self._unshared()
        shares = []
        for node in nodes:
            share = known.get(id(node)) or Share(self, node, Spending(self._backend, node.account))
            used = share.spending.now() if share in earlier else Spent()
            share.tokens = used.tokens + (tokens if math.isinf(tokens) else max(0, tokens // len(nodes)))
            share.flops = used.flops + (flops if math.isinf(flops) else max(0, flops // len(nodes)))
            share.closed = False
            shares.append(share)
        self._shares += [share for share in shares if share not in earlier]
        return shares

    def close(self, share: Share) -> None:
        """What a candidate has not spent is anybody's again."""
        share.closed = True

    def affords(self, count: int, tokens: int, cached: int) -> int:
        """How many of `count` candidates of so many tokens each what is left pays for."""
        if not self.limited:
            return count
        pool_tokens, pool_flops = self._unshared()
        each = span_flops(self._backend.shape, tokens, cached)
        by_count = min(pool_tokens / max(tokens, 1), pool_flops / max(each, 1))
        return int(min(count, by_count)) if self.steps_left() >= tokens else 0

    def more(self, tokens: int) -> None:
        """So many tokens more for each open candidate: limits that cannot pay for them are raised."""
        for share in (one for one in self._shares if not one.closed):
            flops = span_flops(self._backend.shape, tokens, len(share.node.ids))
            self._raise("tok", tokens)
            self._raise("FLOP", flops)
            share.tokens += tokens
            share.flops += flops
        step_s = self.step_seconds() or 0.0
        self._raise("s", tokens * step_s)
        if self._joules is not None:
            self._raise("J", tokens * step_s * self._joules.watts)

    def steps_left(self) -> float:
        """Steps, of all that run beside each other, for which seconds and joules are left."""
        seconds, step_s = self._seconds_left(), self.step_seconds()
        if seconds <= 0:
            return 0.0
        return seconds / step_s if step_s else math.inf

    def until(self, steps: int) -> int | None:
        """The time, monotonic, when so many steps are left; None for no limit."""
        if not self.clocked:
            return None
        left = self._seconds_left() - steps * (self.step_seconds() or 0.0)
        return time.monotonic_ns() + round(left * 1e9)

    def _seconds_left(self) -> float:
        if not self.clocked:
            return math.inf
        seconds = self._limit("s") - self._seconds() - CLOSING_S
        if self._joules is not None:
            drawn = self._joules.drawn().value or 0.0
            seconds = min(seconds, (self._limit("J") - drawn) / self._joules.watts)
        return seconds

    def now(self) -> tuple[Budgeted, ...]:
        """What is spent of each limit by now."""
        counted = self._spent()
        return self._state(
            {
                "tok": derived(counted[0], "tok", "tokens forwarded"),
                "FLOP": derived(counted[1], "FLOP", "profiles.costs"),
                "s": measured(self._seconds(), "s", "monotonic clock"),
            }
        )

    def told(self, receipt: Receipt) -> Receipt:
        """The receipt, with what was spent of each limit by its own figures."""
        spent_by_unit: dict[BudgetUnit, Quantity] = {
            "tok": derived(receipt.tokens.forwarded(), "tok", "the sum over kinds"),
            "FLOP": receipt.compute.flops.total,
            "s": receipt.time.total,
        }
        return structs.replace(receipt, budget=self._state(spent_by_unit))

    def _state(self, spent_by_unit: dict[BudgetUnit, Quantity]) -> tuple[Budgeted, ...]:
        if self._joules is not None:
            spent_by_unit["J"] = self._joules.drawn()
        return tuple(
            Budgeted(limit=Limit(unit, amount), spent=spent_by_unit[unit], raised=unit in self._raised)
            for unit, amount in self._limits.items()
        )

    def _limit(self, unit: BudgetUnit) -> float:
        return self._limits.get(unit, math.inf)

    def _raise(self, unit: BudgetUnit, amount: float) -> None:
        if unit in self._limits:
            self._limits[unit] += amount
            self._raised.add(unit)

    def _seconds(self) -> float:
        return (time.monotonic_ns() - self._clock.accepted_ns) / 1e9 - self._clock.load_s

    def _spent(self) -> tuple[int, int]:
        every = [self._before, *(share.spending.now() for share in self._shares)]
        return sum(one.tokens for one in every), sum(one.flops for one in every)

    def _unshared(self) -> tuple[float, float]:
        """Tokens and FLOPs that are neither spent nor some open candidate's."""
        tokens = self._limit("tok") - self._before.tokens
        flops = self._limit("FLOP") - self._before.flops
        for share in self._shares:
            used = share.spending.now()
            if not math.isinf(tokens):
                tokens -= used.tokens if share.closed else share.tokens
            if not math.isinf(flops):
                flops -= used.flops if share.closed else share.flops
        return tokens, flops

    def step_seconds(self) -> float | None:
        """The mean gap between the newest tokens of those that run, else of those that ran last.

        Before any it follows from what the prompt took, by the rooflines of both.
        """
        gaps = []
        for share in self._shares:
            recent = share.node.account.sampled_ns[-RECENT - 1 :]
            if not share.closed and len(recent) > 1:
                gaps.append((recent[-1] - recent[0]) / 1e9 / (len(recent) - 1))
        if gaps:
            self._step_s = sum(gaps) / len(gaps)
        elif self._step_s is None and self._shares and (read := self._shares[0].node.account.forwarded):
            self._step_s = self._expected_step(read[-1])
        return self._step_s

    def _expected_step(self, read: Forwarded) -> float:
        shape, profile, dtype = self._backend.shape, self._backend.profile, roofline_dtype(self._backend)
        context = read.context + read.tokens
        prompt = roofline_seconds(
            prefill_flops(shape, read.tokens, read.context).total,
            prefill_bytes(shape, read.tokens, read.context).total,
            profile,
            dtype,
        )
        one = roofline_seconds(
            decode_flops(shape, context).total, decode_bytes(shape, context).total, profile, dtype
        )
        return read.seconds * (one / prompt if one and prompt else 1.0)


def _amount(value: float, unit: BudgetUnit) -> str:
    return f"{value:,.0f} tokens" if unit == "tok" else f"{value:.3g} {unit}"
