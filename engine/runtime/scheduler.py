"""Which sequences go through the model together: continuous batching on one thread of its own.

Each turn takes the tokens that every running primitive wants next, puts them into one forward, and hands each
its logits. Decoding goes first; long prompts go in chunks beside it, so that a running answer never stalls.
Where memory runs short, `memory_ladder` decides who gives way. Knows no event loop and no sampling.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from engine.backend import Forwarded
from engine.runtime.ladder import Ladder, out_of_memory
from engine.runtime.primitives import DRAFTS, Stopped, Want
from engine.runtime.runner import AnyRunner, Row
from engine.runtime.sequence import Sequence
from engine.runtime.step import Interrupted

CHUNK = 512
"""Tokens of prompts per forward."""
FEW = DRAFTS + 1
"""Wants of at most this many tokens are decoding: they are in every forward."""
ROWS = 64
"""Sequences that decode in one forward; further ones take turns."""
STALL_S = 0.25
"""Seconds by which chunks of prompts may delay an answer that runs beside them."""

Result = TypeVar("Result")

log = logging.getLogger("mull.engine")


@dataclass(eq=False)
class Work:
    """One primitive under way."""

    primitive: Generator[Want, torch.Tensor | None, Any]
    sequence: Sequence
    cancelled: Callable[[], bool]
    future: Future[Any] = field(default_factory=Future)
    want: Want | None = None
    rows: list[torch.Tensor] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Tokens to forward before the primitive can go on."""
        assert self.want is not None
        return len(self.sequence.ids) - self.sequence.cached + len(self.want.drafts)

    @property
    def is_probe(self) -> bool:
        return self.want is not None and self.want.kind == "probe"


class Scheduler:
    """Owns the thread on which sequences change and the model runs."""

    def __init__(self, runner: AnyRunner, threads: int) -> None:
        self.runner = runner
        self.idle_work: Callable[[], bool] = lambda: False
        """Done while there is nothing else to do, a little at a time, as long as it returns True."""
        self._inbox: queue.SimpleQueue[Work | Callable[[], None] | None] = queue.SimpleQueue()
        self._works: list[Work] = []
        self._closing = self._ended = False
        self._chunk_rate = 0.0
        """Tokens per second of the forwards that had chunks; 0 before the first."""
        self.ladder = Ladder(runner.pool, lambda work: self._resume(work, Stopped("memory")))
        self._thread = threading.Thread(target=self._main, args=(threads,), name="engine", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> Future[Any]:
        """Take up a primitive; its future has what it returns or raises."""
        self._put(work)
        return work.future

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run something between two forwards."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._put(run)
        return future

    def close(self) -> None:
        """Cancel what runs, and end. A forward that is long ends between two layers."""
        self._closing = True
        self._inbox.put(None)
        self._thread.join()

    def _put(self, entry: Work | Callable[[], None]) -> None:
        self._inbox.put(entry)
        if self._ended:  # nobody may take it up any more
            self._refuse()

    def _main(self, threads: int) -> None:
        torch.set_num_threads(threads)  # torch keeps it per thread that starts them
        while not self._closing:
            try:
                self._take_in()
                self._drop_unwanted()
                if self._works and not self._closing:
                    self._turn()
            except Exception as error:  # a fault of ours: nobody may wait for ever
                log.error("the scheduler failed", exc_info=error)
                self.idle_work = lambda: False
                for work in list(self._works):
                    self._fail(work, error)
        for work in list(self._works):
            self._resume(work, Stopped("cancelled"))
        self._ended = True
        self._refuse()

    def _refuse(self) -> None:
        """What came too late: primitives are cancelled; calls, which release pages, are made."""
        while True:
            try:
                entry = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(entry, Work):
                entry.future.cancel()
            elif entry is not None:
                entry()

    def _take_in(self) -> None:
        """What has been submitted; waits where there is nothing to do."""
        while True:
            try:
                idle = not self._works and not self._closing
                entry = self._inbox.get(block=idle and not self.idle_work())
            except queue.Empty:
                if self._works or self._closing:
                    return
                continue
            if isinstance(entry, Work):
                self._begin(entry)
            elif entry is not None:
                entry()
            else:
                return

    def _begin(self, work: Work) -> None:
        sequence = work.sequence
        if sequence.closed:
            work.future.set_exception(ValueError("the node has been cancelled"))
        elif any(other.sequence is sequence for other in self._works):
            work.future.set_exception(ValueError("the node is at work already: fork it"))
        else:
            self.ladder.watch(sequence)
            self._works.append(work)
            self._resume(work, None)

    def _drop_unwanted(self) -> None:
        for work in list(self._works):
            if work.cancelled() or work.sequence.closed:
                self._resume(work, Stopped("cancelled"))

    def _turn(self) -> None:
        """Choose the rows, make room for them, and run them, as many at once as the runner takes."""
        rows = self._choose()
        considered = {work for work, _ in rows}
        chosen = self.ladder.fit(rows, self._works)
        self._works.sort(key=considered.__contains__)  # for whom there was no room comes first next time
        for begin in range(0, len(chosen), self.runner.rows):
            self._pass(chosen[begin : begin + self.runner.rows])

    def _pass(self, chosen: list[tuple[Work, Row]]) -> None:
        """One forward: run the rows, hand out the logits."""
        began = time.perf_counter()
        logits = self._forward(chosen)
        if logits is None:
            return
        seconds = time.perf_counter() - began
        tokens = sum(len(row.ids) for _, row in chosen)
        if any(len(row.ids) > FEW for _, row in chosen):
            rate = tokens / seconds
            self._chunk_rate = rate if not self._chunk_rate else 0.5 * (self._chunk_rate + rate)
        self.ladder.forward_succeeded()
        for (work, row), part in zip(chosen, logits, strict=True):
            self._enter(work, row, seconds, len(row.ids) / tokens)
            self._tell(work)
            if part is not None:
                work.rows.append(part)
            if row.last and work in self._works:
                rows = work.rows
                self._resume(work, (torch.cat(rows) if len(rows) > 1 else rows[0]) if rows else None)

    def _tell(self, work: Work) -> None:
        """How far it is, to whom it may concern. One who has gone takes nobody else along."""
        try:
            if work.want is not None and work.want.progressed is not None:
                work.want.progressed(work.sequence.seen)
        except Exception as error:
            self._fail(work, error)

    def _forward(self, chosen: list[tuple[Work, Row]]) -> list[torch.Tensor | None] | None:
        """The rows' logits; None where the forward was given up, whoever has to end for it has ended."""
        long = [work for work, row in chosen if len(row.ids) > FEW]
        unwanted = (lambda: self._closing or any(work.cancelled() for work in long)) if long else None
        try:
            return self.runner.run([row for _, row in chosen], unwanted)
        except Interrupted:
            return None
        except Exception as error:
            short = out_of_memory(error)
            if not short and len(chosen) == 1:
                self._fail(chosen[0][0], error)
                return None
        # outside of the clause: its frames hold tensors
        if short:
            self.ladder.forward_failed(chosen, self._works)
        else:
            self._one_by_one(chosen)
        return None

    def _one_by_one(self, chosen: list[tuple[Work, Row]]) -> None:
        """A forward failed otherwise than for want of memory: only those fail that fail alone."""
        for work, row in chosen:
            if work in self._works:
                self._pass([(work, row)])

    def _choose(self) -> list[tuple[Work, Row]]:
        """Everybody's next few tokens, then chunks of what is long, fairly between those who have such."""
        works = self.ladder.may_run(self._works)
        few = [work for work in works if work.missing <= FEW][:ROWS]
        many = [work for work in works if work.missing > FEW]
        chosen: list[tuple[Work, Row]] = []
        left = self.ladder.at_most(ROWS * FEW)
        for work in few:
            if left > 0:
                chosen.append((work, _row(work, min(FEW, left))))
                left -= len(chosen[-1][1].ids)
        left = min(left, self.ladder.at_most(self._chunk_beside() if few else CHUNK))
        for waiting, work in zip(range(len(many), 0, -1), many, strict=True):
            if left > 0:
                chosen.append((work, _row(work, -(-left // waiting))))
                left -= len(chosen[-1][1].ids)
        return chosen

    def _chunk_beside(self) -> int:
        """Tokens of prompts that delay the answers beside them by no more than STALL_S."""
        fitting = int(self._chunk_rate * STALL_S) // FEW * FEW
        return min(max(fitting, FEW + 1), CHUNK)

    def _resume(self, work: Work, value: torch.Tensor | Stopped | None) -> None:
        """Let a primitive go on to its next want, or to its end."""
        work.rows = []
        try:
            if isinstance(value, Stopped):
                work.want = work.primitive.throw(value)
            elif work.want is None:
                work.want = next(work.primitive)
            else:
                work.want = work.primitive.send(value)
        except StopIteration as stop:
            self._end(work)
            work.future.set_result(stop.value)
        except BaseException as error:
            self._end(work)
            work.future.set_exception(error)

    def _end(self, work: Work) -> None:
        if work in self._works:
            self._works.remove(work)

    def _fail(self, work: Work, error: BaseException) -> None:
        """Its forward failed otherwise than for want of memory, and so does it."""
        work.primitive.close()
        self._end(work)
        work.future.set_exception(error)

    def _enter(self, work: Work, row: Row, seconds: float, share: float) -> None:
        """Into the account of the sequence: what was forwarded, and whether for the first time."""
        want = work.want
        assert want is not None
        before = work.sequence.cached - len(row.ids)
        work.sequence.account.forwarded.append(
            Forwarded(
                want.primitive,
                "recomputed" if row.again else want.kind,
                want.phase,
                len(row.ids),
                before,
                row.logits,
                seconds,
                share,
            )
        )


def _row(work: Work, most: int) -> Row:
    """The next tokens, at most so many, that a work wants forwarded: all anew, or all recomputed.

    Guesses are among them only where there is room for all that is wanted.
    """
    want, sequence = work.want, work.sequence
    assert want is not None
    again = sequence.cached < sequence.seen
    rest = sequence.ids[sequence.cached : sequence.seen if again else None]
    if again:
        return Row(sequence, rest[:most], 0, again=True)
    drafts = want.drafts if len(rest) + len(want.drafts) <= most else ()
    rest = [*rest, *drafts]
    part = rest[:most]
    # of the whole want, the last `logits` tokens have theirs kept
    missing = len(rest) - len(part) + len(want.drafts) - len(drafts)
    logits = max(0, min(len(part), want.logits - missing))
    return Row(sequence, part, logits, last=len(part) == len(rest), drafts=len(drafts))
