"""Does one job of the resident engine on its model, and says how it failed. Knows no sockets and no queue."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from engine.jobs import Job
from engine.load.errors import BadSpec, DoesNotFit, ModelError
from engine.loaded import LoadedModel
from engine.meter.receipt import Clock
from engine.protocol import AnswerRequest, Failed, Finished, Loaded, Loading, MethodInfo
from engine.protocol.preview import Previewed, PreviewRequest
from engine.protocol.replay import Replayed, ReplayRequest
from engine.protocol.settling import Settled, SettlingRequest
from engine.protocol.speed import Measured, SpeedRequest
from engine.replay.job import replay
from engine.speed import Stop, Stopped, measure
from engine.thinking.methods import AUTO, METHODS
from engine.thinking.methods.auto import previewed, settled
from engine.thinking.run import Steering, UsageError, answer
from engine.thinking.settling import settle

log = logging.getLogger("mull.engine")


async def work(job: Job, model: LoadedModel, tell_loading: Callable[[Loading], None]) -> None:
    """Have the model ready, and answer or measure where that is asked for."""
    backend, waited = await model.ready(job.model, tell_loading)
    from engine.runtime.sampler import NotFinite  # the runtime is there by now

    load_s = model.seconds_since(job.accepted_ns)
    if waited or job.request is None:
        methods = (
            *(
                MethodInfo(method.name, method.thinks, method.candidates, method.searches)
                for method in METHODS.values()
            ),
            MethodInfo(AUTO, thinks=True),
        )
        job.tell(Loaded(model=backend.info, seconds=load_s, methods=methods))
    try:
        match job.request, job.steering:
            case AnswerRequest() as request, Steering() as steering:
                clock = Clock(job.accepted_ns, time.monotonic_ns(), load_s)
                request, planned = await settled(request, backend, model.calibrations, job.tell)
                given = await answer(request, backend, job.tell, steering, clock)
                job.tell(Finished(answer=structs.replace(given, planned=planned)))
            case PreviewRequest() as request, _:
                job.tell(Previewed(preview=await previewed(request, backend, model.calibrations)))
            case SpeedRequest() as request, Stop() as stop:
                job.tell(Measured(report=await measure(request, backend, job.tell, stop)))
            case SettlingRequest() as request, Stop() as stop:
                clock = Clock(job.accepted_ns, time.monotonic_ns(), load_s)
                job.tell(Settled(settling=await settle(request.answer, backend, clock, stop)))
            case ReplayRequest() as request, Stop() as stop:
                job.tell(Replayed(report=await replay(request, backend, job.tell, stop)))
    except NotFinite as error:
        raise ModelError(str(error), "download the model again") from error


def failure(error: Exception, log_file: Path) -> Failed:
    """What a client is told of an error: one line with the cause, and the next step."""
    match error:
        case Stopped():
            return Failed(code="cancelled", message="stopped before its end")
        case UsageError():
            return Failed(code=error.code, message=str(error), hint=error.hint)
        case BadSpec():
            return Failed(code="usage", message=str(error), hint=error.hint)
        case DoesNotFit():
            return Failed(code="fit", message=error.message, hint=error.hint)
        case ModelError():
            return Failed(code="model", message=error.message, hint=error.hint)
    log.error("a job failed", exc_info=error)
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    return Failed(code="engine", message=f"the engine failed: {cause}", hint=f"see {log_file}")
