"""One request from beginning to end: a checkpoint, a report, or both; whatever fails becomes one line."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.load.errors import BadSpec, DoesNotFit, ModelError
from engine.protocol.messages import Failed
from engine.protocol.quantize import Completed, QuantizationResult, QuantizeRequest
from engine.quantize.gptq import make_gptq
from engine.quantize.matrices import plain_checkpoint
from engine.quantize.models import device_of
from engine.quantize.pace import Emit
from engine.quantize.report import report
from engine.quantize.rounded import make_rounded

KINDS = ("int8", "int4", "fp8")
"""What a report is of where nothing is named."""


def run(request: QuantizeRequest, emit: Emit) -> Completed | Failed:
    """Do it; blocking."""
    try:
        return Completed(result=_result(request, emit))
    except BadSpec as error:
        return Failed(code="usage", message=str(error), hint=error.hint)
    except DoesNotFit as error:
        return Failed(code="fit", message=error.message, hint=error.hint)
    except ModelError as error:
        return Failed(code="model", message=error.message, hint=error.hint)
    except (MemoryError, torch.OutOfMemoryError):
        return Failed(code="fit", message="there is not enough memory for this", hint="use a smaller model")


def _result(request: QuantizeRequest, emit: Emit) -> QuantizationResult:
    device = device_of(request.device)
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    making, written, others = request.making, None, request.others
    if making is not None:
        checkpoint = plain_checkpoint(request.model)
        if making.to == "gptq":
            written = make_gptq(checkpoint, making, device, emit)
        else:
            written = make_rounded(checkpoint, making, emit)
        others = (str(Path(making.out).absolute()),)  # never a bundled model of that name
    quality = None
    if request.report:
        quality = report(request.model, others or KINDS, request.problems, device, emit)
    return QuantizationResult(model=request.model, written=written, quality=quality)
