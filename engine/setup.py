"""From what a client asks for to a running backend: the machine's profile, the model, its thinking format."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from engine.load.checkpoint import inspect
from engine.load.errors import BadSpec
from engine.load.locate import locate
from engine.load.tokenizer import HubTokenizer
from engine.page_files import PageFolder
from engine.protocol import ModelSpec
from engine.quantized_folder import QuantizedFolder
from engine.runtime.assemble import fitting
from engine.runtime.create import create
from engine.runtime.create_draft import inspect_draft
from engine.runtime.local import LocalBackend
from engine.thinking.families import STEP_BY_STEP
from engine.thinking.formats import UnresolvedMarkers, resolve
from profiles.catalogue import UnknownProfile
from profiles.detect import Detection, detect


def open_backend(
    spec: ModelSpec,
    user_profiles: Path | None = None,
    on_progress: Callable[[str, int | None, int | None], None] = lambda *_: None,
    prompts: PageFolder | None = None,
    quantized: QuantizedFolder | None = None,
) -> LocalBackend:
    """Load the model that `spec` names on the machine that it names; blocking.

    `on_progress(stage, bytes done, bytes in total)`; `prompts` and `quantized` are where prompts
    and weights quantized here are kept on disk, if they are. Raises ModelError, DoesNotFit, and BadSpec.
    """
    found = _detected(spec, user_profiles)
    backend = create(spec, found.profile, found.settings, on_progress, prompts, quantized)
    try:
        style = resolve(backend.tokenizer, backend.info.thinking_format)
        name = style.format.name if style is not None else STEP_BY_STEP if spec.step_by_step else None
    except UnresolvedMarkers:
        name = None  # said, with its cause, to whoever asks this model to think
    backend.info = msgspec.structs.replace(
        backend.info, profile=found.label, simulated=found.simulated, thinking_format=name
    )
    return backend


def check(spec: ModelSpec, user_profiles: Path | None = None) -> None:
    """Raise what `open_backend` would raise before it reads any weights, were there memory without end."""
    found = _detected(spec, user_profiles)
    folder = locate(spec.model)
    checkpoint = inspect(folder)
    fitting(checkpoint, spec.quant, found.profile, found.settings.dtype, sys.maxsize, found.settings.device)
    inspect_draft(spec, checkpoint, HubTokenizer(folder))


def _detected(spec: ModelSpec, user_profiles: Path | None) -> Detection:
    """The hardware; a GPU that this torch cannot use is passed over unless it was asked for."""
    processors = os.cpu_count() or 1
    if spec.threads is not None and spec.threads > processors:
        raise BadSpec(f"{spec.threads} threads are more than this machine's {processors} processors")
    try:
        found = detect(spec.profile, device=spec.device or "auto", user_dir=user_profiles)
    except UnknownProfile as error:
        raise BadSpec(str(error)) from error
    except ValueError as error:
        raise BadSpec(str(error)) from error
    if spec.device is None and found.settings.device != "cpu" and not torch.cuda.is_available():
        found = detect(spec.profile, device="cpu", user_dir=user_profiles)
    return found
