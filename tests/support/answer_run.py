"""One answer on a real backend, with everything that was heard of it."""

from __future__ import annotations

import time

from engine.meter.receipt import Clock
from engine.protocol import Answer, AnswerRequest, Control, Delta, Event, Message, ModelSpec, Think
from engine.runtime.local import LocalBackend
from engine.thinking.run import Steering, answer


class Run:
    """Asks once. `controls` are given after so many pieces of text."""

    def __init__(self, question: str = "How many?") -> None:
        self._question = question
        self.events: list[Event] = []
        self.steering = Steering()
        self.controls: dict[int, Control] = {}
        self.answer: Answer

    async def __call__(self, backend: LocalBackend, think: Think = "max", **options: object) -> Run:
        request = AnswerRequest(
            id="a",
            spec=ModelSpec(),
            messages=(Message("user", self._question),),
            think=think,
            **options,  # type: ignore[arg-type]
        )
        now = time.monotonic_ns()
        before = backend.runner.forwarded_tokens
        self.answer = await answer(request, backend, self._hear, self.steering, Clock(now, now, 0.0))
        self.forwarded = backend.runner.forwarded_tokens - before
        return self

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Delta) and (control := self.controls.pop(len(self.texts), None)):
            self.steering.control(control)

    @property
    def texts(self) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta)]

    def text(self, phase: str) -> str:
        return "".join(delta.text for delta in self.texts if delta.phase == phase)
