"""The app with a scripted engine: it replays a list of events under a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from textual.pilot import Pilot

from app.config import Settings
from app.sessions.recorder import Clock, Recorder
from app.sessions.store import Store
from app.tui.app import MullApp
from app.tui.services import Services
from app.tui.starters import Starter
from engine.protocol import (
    Answer,
    AnswerNow,
    AnswerRequest,
    Cancel,
    Control,
    Delta,
    EngineStatus,
    Event,
    Failed,
    Finished,
    Loaded,
    Loading,
    Metered,
    ModelInfo,
    ModelSpec,
    Started,
)
from engine.protocol.preview import PreviewEvent, PreviewRequest
from engine.protocol.receipt import Step
from engine.protocol.settling import Settled, SettlingRequest

MODEL = ModelInfo(
    weights="float32",
    name="tiny",
    path="",
    revision=None,
    architecture="Qwen3ForCausalLM",
    parameters=6_400_000,
    weight_bytes=12_900_000,
    dtype="float32",
    kv_dtype="float32",
    device="cpu",
    profile="laptop",
    context=4096,
    threads=2,
    thinking_format="tiny",
    think_steps=(32, 128, 512),
)

STARTERS = (
    Starter("Add", "What is 4748 + 2674?", "worked out digit by digit"),
    Starter("A story", "Fay has 14 cards. Fay loses 5. How many cards are left?", "kept in order"),
    Starter("A ranking", "Ida is older than Gus. Gus is older than Hal. Who is oldest?", "put in a row"),
)

THOUGHT = "8+4=12:2\n4+7+1=12:22\n7+6+1=14:422\n4+2+1=7:7422\n"

PROOF = """\
**√2 is irrational.** Suppose it were *p/q* in lowest terms.

1. Then p² = 2q², so p is even: p = 2k.
2. Then q² = 2k², so q is even too.

Both even contradicts lowest terms. A quick check:

```python
from math import isqrt
assert all(isqrt(2 * q * q) ** 2 != 2 * q * q for q in range(1, 1000))
```

| q | 2q² | square? |
|---|-----|---------|
| 1 | 2   | no      |
| 2 | 8   | no      |
"""


class Hold:
    """A place in a script where the engine waits for the test."""


HOLD = Hold()
FRAMES_S = 0.2
"""Longer than a frame or two, so that what arrived is drawn."""
Script = list[Event | Settled | Hold | Exception]


class ManualClock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class ScriptedEngine:
    """Replays one script per load and per answer, and keeps what it was told."""

    def __init__(self, loads: list[Script], answers: list[Script], end: Callable[..., Answer]) -> None:
        self.loads = list(loads)
        self.answers = list(answers)
        self.requests: list[AnswerRequest] = []
        self.previews: list[PreviewRequest] = []
        self.preview_script: list[PreviewEvent] = []
        self.settlings: list[SettlingRequest] = []
        self.settling_script: Script = []
        self.controls: list[Control] = []
        self.closed = False
        self.contacted = False
        self._end = end
        self._released = asyncio.Event()
        self._cancelled = False
        self._deaf = False
        self._playing = 0
        self._holding = 0

    def release(self) -> None:
        """Go on after the place where the script holds."""
        self._released.set()

    def ignore_cancel(self) -> None:
        """Be an engine that hangs."""
        self._deaf = True

    async def load(self, spec: ModelSpec) -> AsyncGenerator[Event, None]:
        self.contacted = True
        async for event in self._play(self.loads.pop(0) if len(self.loads) > 1 else self.loads[0]):
            yield event

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        self._cancelled = False
        said: dict[str, str] = {"thinking": "", "answer": ""}
        async for event in self._play(self.answers.pop(0)):
            if isinstance(event, Delta):
                said[event.phase] += event.text
            yield event
            if self._cancelled:
                yield Finished(answer=self._end(said["answer"], said["thinking"], "cancelled"))
                return
        if self._cancelled:
            yield Finished(answer=self._end(said["answer"], said["thinking"], "cancelled"))

    async def preview(self, request: PreviewRequest) -> AsyncGenerator[PreviewEvent, None]:
        self.previews.append(request)
        for event in self.preview_script:
            yield event

    async def settling(self, request: SettlingRequest) -> AsyncGenerator[Event | Settled, None]:
        self.settlings.append(request)
        async for event in self._play(self.settling_script):
            yield event

    async def _play(self, script: Script) -> AsyncGenerator[Event, None]:
        self._playing += 1
        try:
            for item in script:
                if isinstance(item, Hold):
                    await self._hold()
                    if self._cancelled:
                        return
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
                    await asyncio.sleep(0)
        finally:
            self._playing -= 1

    async def _hold(self) -> None:
        self._holding += 1
        try:
            await self._released.wait()
            self._released.clear()
        finally:
            self._holding -= 1

    async def settle(self, pilot: Pilot[None]) -> None:
        """Wait until every script under way holds or has ended, and what came of it is drawn."""
        for _ in range(200):
            await pilot.pause(0.01)
            if self._playing == self._holding and (self._holding or pilot.app.chat.live is None):
                break
        if pilot.app.chat.live is not None:
            await pilot.pause(FRAMES_S)
        await pilot.pause()

    async def control(self, answer_id: str, control: Control) -> None:
        self.controls.append(control)
        if isinstance(control, Cancel) and not self._deaf:
            self._cancelled = True
            self._released.set()
        if isinstance(control, AnswerNow):
            self._released.set()

    async def status(self) -> EngineStatus | None:
        return None

    async def close(self) -> None:
        self.closed = True


class Kit:
    """Events to write scripts with, and the app on them."""

    hold = HOLD
    model = MODEL
    starters = STARTERS
    thought = THOUGHT
    proof = PROOF

    def __init__(self, directory: Path, make_answer: Callable[..., Answer]) -> None:
        self.clock = ManualClock()
        self.store = Store(directory)
        self.remembered: dict[str, object] = {}
        self._make_answer = make_answer
        self.engine: ScriptedEngine

    # Events

    loaded = Loaded(model=MODEL, seconds=0.4)
    half_loaded = Loading(stage="loading weights", done=6_400_000, total=12_900_000)

    def started(self, limit: int = 512, room: int = 3659, **changes: object) -> Started:
        started = Started(
            answer_id="a",
            model="tiny",
            method="cot",
            prompt_tokens=30,
            context=4096,
            thinking_limit=limit,
            thinking_room=room,
        )
        return msgspec.structs.replace(started, **changes)

    def think(self, text: str = THOUGHT, tokens: int = 40) -> Delta:
        return Delta(candidate="a", phase="thinking", text=text, tokens=tokens)

    def say(self, text: str, tokens: int = 8) -> Delta:
        return Delta(candidate="a", phase="answer", text=text, tokens=tokens)

    def metered(self, rate: float | None = 86.6, **changes: object) -> Metered:
        sample = Metered(
            seconds=1.2,
            decode_tok_s=rate,
            prefill_tok_s=1240.0,
            thinking_tokens=40,
            answer_tokens=0,
            thinking_limit=512,
            context_used=312,
            context_limit=4096,
            flops_prefill=410_000_000,
            flops_thinking=1_240_000_000,
            flops_answer=96_000_000,
            next_token_flops=13_400_000,
            next_token_bytes=13_100_000,
            next_token_roofline_s=0.00042,
            weights_bytes=12_900_000,
            kv_used_bytes=2_400_000,
            kv_allocated_bytes=33_000_000,
            process_bytes=412_000_000,
            device_used_bytes=None,
            device_total_bytes=None,
        )
        return msgspec.structs.replace(sample, **changes)

    def answer(self, text: str = "7422", thinking: str = THOUGHT, finish: str = "stop") -> Answer:
        answer = self._make_answer(text, thinking, finish)
        step = Step(
            primitive="extend",
            phase="thinking",
            candidate="a",
            model="tiny",
            tokens=40,
            context=70,
            seconds=1.4,
            flops=1,
            bytes=1,
        )
        tokens = msgspec.structs.replace(
            answer.receipt.tokens, thinking=40 if thinking else 0, answer=max(1, len(text) // 4)
        )
        receipt = msgspec.structs.replace(answer.receipt, tokens=tokens, steps=(step,) if thinking else ())
        return msgspec.structs.replace(answer, receipt=receipt)

    def finished(self, text: str = "7422", thinking: str = THOUGHT, finish: str = "stop") -> Finished:
        return Finished(answer=self.answer(text, thinking, finish))

    def failed(self, message: str = "the engine went away; what it had said is kept") -> Failed:
        return Failed(code="engine", message=message, hint="ask again to start it anew")

    def complete(self, text: str = "7422", thinking: str = THOUGHT) -> Script:
        """A whole answer."""
        rates = (61.0, 74.5, 80.2, 84.0, 86.1, 86.6)
        return [
            self.started(),
            *([self.think(thinking)] if thinking else []),
            *(self.metered(rate) for rate in rates),
            self.say(text),
            self.finished(text, thinking),
        ]

    # The app

    def record(self, *exchanges: tuple[str, str]) -> None:
        """Have a conversation on disk."""
        recorder = Recorder.create(self.store, Clock(now=self.clock.now, monotonic=self.clock))
        for question, text in exchanges:
            recorder.user_turn(question)
            turn = recorder.answer_turn(recorder.request(ModelSpec()))
            recorder.event(turn, self.finished(text, ""))
        recorder.close()

    def app(
        self,
        *answers: Script,
        loads: list[Script] | None = None,
        settings: Settings | None = None,
        resume: str | None = None,
        meter: bool = True,
        warnings: tuple[str, ...] = (),
    ) -> MullApp:
        """The app on an engine that gives these answers in turn."""
        self.engine = ScriptedEngine(loads or [[self.loaded]], list(answers), self.answer)
        times = Clock(now=self.clock.now, monotonic=self.clock)
        return MullApp(
            Services(
                engine=self.engine,
                new_recorder=lambda: Recorder.create(self.store, times),
                remember=self.remembered.__setitem__,
                settings=settings or Settings(),
                resumed=None if resume is None else Recorder.resume(resume, self.store, times),
                starters=STARTERS,
                meter=meter,
                warnings=warnings,
                clock=self.clock,
                blink=False,
            )
        )


@pytest.fixture
def kit(tmp_path: Path, make_answer: Callable[..., Answer]) -> Kit:
    """What a test of the app needs."""
    return Kit(tmp_path / "sessions", make_answer)
