"""Which job runs when. Knows no sockets and no models: a job has a client and a group, and groups never mix.

Jobs of a group run together, up to a limit. Groups take turns, and clients take turns within a group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

AT_ONCE = 8
"""Answers that run together. A forward reads the weights once for all of them, so that where reading is the
limit several take little longer than one; but each holds pages of the cache, and beyond a few the arithmetic
becomes the limit. Where that is on a machine, `mull speed --batch N` shows."""
BULK = 8
"""Answers in bulk that take the place of one: what counts with them is how many end in an hour, so that 64
run together, as many as decode in one forward."""
TURN = 8
"""Jobs that a group may still begin once another group waits: one batch, so that going back and forth
between two models does not load one of them for each answer."""


class Work(Protocol):
    """What the desk has to know of a job."""

    @property
    def client(self) -> Hashable: ...

    @property
    def group(self) -> Hashable:
        """What it may run together with: jobs of equal groups."""
        ...

    @property
    def brief(self) -> bool:
        """It ends at once where its group runs already, and so takes none of the places."""
        ...

    @property
    def bulk(self) -> bool:
        """It takes a part of a place."""
        ...


J = TypeVar("J", bound=Work)


@dataclass
class _Turn(Generic[J]):
    """The waiting jobs of a group: a line for each client, the client whose turn it is first."""

    group: Hashable
    lines: dict[Hashable, deque[J]] = field(default_factory=dict)
    left: int = TURN * BULK
    """Parts of places that may still be taken in this turn while another waits."""

    def __contains__(self, job: J) -> bool:
        return job in self.lines.get(job.client, ())

    def first(self) -> J:
        return next(iter(self.lines.values()))[0]

    def add(self, job: J) -> None:
        self.lines.setdefault(job.client, deque()).append(job)

    def begin(self) -> None:
        """The first job leaves, and its client goes behind the others."""
        client, line = next(iter(self.lines.items()))
        del self.lines[client]
        line.popleft()
        if line:
            self.lines[client] = line

    def remove(self, job: J) -> None:
        line = self.lines[job.client]
        line.remove(job)
        if not line:
            del self.lines[job.client]

    def copy(self) -> _Turn[J]:
        return _Turn(self.group, {client: line.copy() for client, line in self.lines.items()}, self.left)


class _Order(Generic[J]):
    """The waiting jobs in turns; the first turn is that of the group which runs, or ran last."""

    def __init__(self, turns: list[_Turn[J]] | None = None) -> None:
        self.turns: list[_Turn[J]] = turns or [_Turn(None)]

    def copy(self) -> _Order[J]:
        return _Order([turn.copy() for turn in self.turns])

    def add(self, job: J) -> None:
        """Into a turn of its group that has not begun; into the running one only where no other waits."""
        self._open(job.group).add(job)

    def first(self) -> J | None:
        """The job to begin next."""
        turn = self._next()
        return None if turn is None else turn.first()

    def begin(self) -> None:
        """The first job leaves; what is left of a turn that it ends becomes another turn."""
        turn = self._next()
        assert turn is not None
        if turn is not self.turns[0]:
            ended = self.turns.pop(0)
            if ended.lines:
                later = self._open(ended.group)
                for client, line in ended.lines.items():
                    line.extend(later.lines.pop(client, ()))
                later.lines = {**ended.lines, **later.lines}
        if len(self.turns) > 1:
            turn.left -= max(1, _parts(turn.first()))
        turn.begin()

    def remove(self, job: J) -> bool:
        """Let a job not begin; whether it was here."""
        for turn in self.turns:
            if job in turn:
                turn.remove(job)
                self.turns[1:] = [waiting for waiting in self.turns[1:] if waiting.lines]
                return True
        return False

    def _open(self, group: Hashable) -> _Turn[J]:
        """The turn that takes jobs of a group now."""
        running, *waiting = self.turns
        for turn in waiting or [running]:
            if turn.group == group:
                return turn
        self.turns.append(_Turn(group))
        return self.turns[-1]

    def _next(self) -> _Turn[J] | None:
        """The turn from which the next job comes: the running one while it may go on, else the one after."""
        running, *waiting = self.turns
        if running.lines and (running.left > 0 or not waiting):
            return running
        return waiting[0] if waiting else None


class Desk(Generic[J]):
    """Takes jobs in, and tells which to begin.

    No job waits for ever: a group that another waits for takes no later jobs and begins at most TURN of
    those that it has, and in a turn each client that waits begins one job before any begins a second.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self.running: list[J] = []
        self._parts = at_once * BULK
        self._order: _Order[J] = _Order()

    @property
    def idle(self) -> bool:
        return not self.running and self._order.first() is None

    @property
    def waiting(self) -> list[J]:
        """The jobs that have not begun."""
        return [job for turn in self._order.turns for line in turn.lines.values() for job in line]

    def accept(self, job: J) -> None:
        self._order.add(job)

    def take(self) -> J | None:
        """A job that begins now; None where all have to wait."""
        job = self._order.first()
        if job is None or not self._may_begin(job):
            return None
        self._order.begin()
        self.running.append(job)
        return job

    def finish(self, job: J) -> None:
        """A job that ran has ended."""
        self.running.remove(job)

    def withdraw(self, job: J) -> bool:
        """Let a waiting job not begin; False where it has begun already, or was never here."""
        return self._order.remove(job)

    def places(self) -> Iterator[tuple[J, int]]:
        """Each waiting job, in the order in which they begin if no other comes, with how many answers have
        to end before it does."""
        order = self._order.copy()
        group = self.running[0].group if self.running else None
        ended, together = 0, [job for job in self.running if not job.brief]
        gone, busy = 0, self._busy
        while (job := order.first()) is not None:
            order.begin()
            if job.group != group:
                group, ended, together, gone, busy = job.group, ended + len(together), [], 0, 0
            if not job.brief:
                while busy >= self._parts:
                    busy -= _parts(together[gone])
                    gone += 1
                together.append(job)
                busy += _parts(job)
            yield job, ended + gone

    def _may_begin(self, job: J) -> bool:
        if not self.running:
            return True
        return job.group == self.running[0].group and (job.brief or self._busy < self._parts)

    @property
    def _busy(self) -> int:
        """Parts of places that are taken."""
        return sum(map(_parts, self.running))


def _parts(job: Work) -> int:
    """Parts of a place that a job takes."""
    return 0 if job.brief else 1 if job.bulk else BULK
