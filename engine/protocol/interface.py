"""The Engine interface: what an app may do with an engine, wherever it runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from engine.protocol.messages import AnswerRequest, Control, EngineStatus, Event
from engine.protocol.preview import PreviewEvent, PreviewRequest
from engine.protocol.replay import ReplayEvent, ReplayRequest
from engine.protocol.settling import SettlingEvent, SettlingRequest
from engine.protocol.spec import ModelSpec
from engine.protocol.speed import SpeedEvent, SpeedRequest


class Engine(Protocol):
    """Request in, events out. A stream ends with the one event that its method names, or with `Failed`."""

    def load(self, spec: ModelSpec) -> AsyncIterator[Event]:
        """Get the model into memory: `Loading`… then `Loaded` or `Failed`."""
        ...

    def answer(self, request: AnswerRequest) -> AsyncIterator[Event]:
        """Answer, loading the model first where needed (`Loaded` says so): … then `Finished` or `Failed`.

        Leaving the stream early cancels the answer.
        """
        ...

    def speed(self, request: SpeedRequest) -> AsyncIterator[SpeedEvent]:
        """Measure how fast the model runs, with nothing else running: … then `Measured` or `Failed`.

        Leaving the stream early cancels it.
        """
        ...

    def preview(self, request: PreviewRequest) -> AsyncIterator[PreviewEvent]:
        """Say what an answer would cost, method by method: … then `Previewed` or `Failed`."""
        ...

    def replay(self, request: ReplayRequest) -> AsyncIterator[ReplayEvent]:
        """Recompute a recorded answer, loading the model first where needed: … then `Replayed` or `Failed`.

        Leaving the stream early cancels it.
        """
        ...

    def settling(self, request: SettlingRequest) -> AsyncGenerator[SettlingEvent, None]:
        """Find where an answer's thought settled, if nothing else is to do: … then `Settled` or `Failed`.

        It fails as soon as anything else is asked for. Leaving the stream early cancels it.
        """
        ...

    async def control(self, answer_id: str, control: Control) -> None:
        """Steer a running answer; one that has ended is left alone."""
        ...

    async def status(self) -> EngineStatus | None:
        """The engine's state, or None where none is running."""
        ...

    async def close(self) -> None:
        """Let go of the engine; a resident one stays until its keep-alive ends."""
        ...
