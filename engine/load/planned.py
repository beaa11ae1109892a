"""Loading by a plan: quantized as it is read, or, the second time, as it was kept."""

from __future__ import annotations

import logging
import shutil
from typing import Any

from engine.load.checkpoint import Checkpoint
from engine.load.choose import quantize_by
from engine.load.errors import ModelError
from engine.load.model import Progress, load_model
from engine.load.plan import QuantPlan
from engine.load.quantized_store import find, keep, key_of
from engine.quantized_folder import QuantizedFolder

log = logging.getLogger("mull.engine")


def load_by(
    plan: QuantPlan,
    checkpoint: Checkpoint,
    dtype: str,
    device: str,
    attention: str,
    progress: Progress,
    folder: QuantizedFolder | None,
) -> Any:
    """The model in memory, see `load_model`; what is quantized here is kept in `folder`, if given."""
    if not plan:
        return load_model(checkpoint, dtype, device, attention, progress)
    if folder is None or not folder.limit():
        return load_model(checkpoint, dtype, device, attention, progress, quantize_by(plan))
    key = key_of(checkpoint.source, plan, dtype)
    kept = find(folder, key, plan.name)
    if kept is not None:
        try:
            return load_model(checkpoint, dtype, device, attention, progress, kept=kept)
        except ModelError as error:
            log.warning("quantized weights in %s are not used: %s", folder.model(key), error)
            shutil.rmtree(folder.model(key), ignore_errors=True)
    model = load_model(checkpoint, dtype, device, attention, progress, quantize_by(plan))
    progress("keeping quantized weights", None, None)
    keep(folder, key, model)
    return model
