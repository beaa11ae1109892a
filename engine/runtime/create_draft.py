"""From what a request says of drafts to who guesses: nobody, the text itself, another model, first layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from engine.backend import DraftInfo
from engine.load.checkpoint import Checkpoint, inspect
from engine.load.errors import ModelError
from engine.load.locate import locate, shown_name
from engine.load.model import Progress
from engine.load.plan import NONE, QuantPlan
from engine.load.tokenizer import HubTokenizer
from engine.nn.fused import FirstLayers, FusedDecoder
from engine.protocol import ModelSpec
from engine.runtime.assemble import Assembled, affordable, assemble, fitting, longest_context
from engine.runtime.draft import DraftModel, EarlyExit
from engine.runtime.memory import system_memory
from engine.runtime.pages import PAGE
from engine.runtime.runner import Runner
from engine.runtime.speculation import Speculation
from engine.runtime.storage import KINDS
from profiles.catalogue import Profile

OFF = "off"
_EXIT = re.compile(r"exit:(.*)")


@dataclass(frozen=True)
class Draft:
    """Who is asked to draft, checked and not yet loaded: a checkpoint, or so many first layers."""

    name: str
    """As it is shown."""
    by: Checkpoint | int


def inspect_draft(spec: ModelSpec, checkpoint: Checkpoint, tokenizer: HubTokenizer) -> Draft | None:
    """What `spec.draft` names, for the model of this checkpoint; None for no drafts. Raises ModelError."""
    asked = spec.draft
    if asked is None or asked == OFF:
        return None
    if found := _EXIT.fullmatch(asked):
        layers = int(found[1]) if found[1].isdecimal() else 0
        if not 0 < layers < checkpoint.shape.layers:
            raise ModelError(
                f"draft {asked[:40]!r}: a number of layers from 1 to {checkpoint.shape.layers - 1} is meant",
                "say exit:N with such an N",
            )
        return Draft(f"{shown_name(spec.model, checkpoint.folder)} {asked}", layers)
    folder = locate(asked)
    if HubTokenizer(folder).vocabulary != tokenizer.vocabulary:
        raise ModelError(
            f"the draft model {folder} has another vocabulary than {checkpoint.folder}",
            "use a smaller model of the same family",
        )
    draft = inspect(folder)
    if not draft.paged:
        raise ModelError(f"the draft model {folder} cannot take back what it has read", "use another")
    return Draft(shown_name(asked, folder), draft)


def speculation(
    spec: ModelSpec,
    draft: Draft | None,
    model: Assembled,
    profile: Profile,
    preferred_dtype: str,
    device: str,
    on_progress: Progress,
) -> Speculation | None:
    """Who guesses for the model, loaded; None where nobody may, or where nothing could be taken back.

    Raises ModelError, and DoesNotFit where memory is short.
    """
    if spec.draft == OFF or model.paged is None:
        return None
    if draft is None:
        return Speculation()
    if isinstance(draft.by, int):
        if not isinstance(model.paged.forward, FusedDecoder):
            raise ModelError(
                f"{draft.name}: this architecture cannot be left early", "use a draft model, or none"
            )
        shape = replace(model.shape, layers=draft.by, windows=model.shape.windows[: draft.by])
        info = DraftInfo(draft.name, shape)
        first = FirstLayers(model.paged.forward, draft.by)
        return Speculation(EarlyExit(info, Runner(first, model.paged.pool)))
    longest = longest_context(draft.by.config)
    dtype, _ = fitting(draft.by, NONE, profile, preferred_dtype, system_memory(device).free, device)
    loaded = assemble(
        draft.by,
        dtype,
        device,
        QuantPlan(),
        None,
        model.paged.packed,
        False,
        KINDS[spec.kv],
        lambda shape: min(longest, model.context, max(PAGE, affordable(shape, device))),
        on_progress,
    )
    info = DraftInfo(draft.name, loaded.shape)
    assert loaded.paged is not None  # else it was refused
    runner = Runner(loaded.paged.forward, loaded.paged.pool)
    vocabulary = min(model.shape.vocab, loaded.shape.vocab)  # one may be padded further than the other
    return Speculation(DraftModel(info, runner, loaded.context, vocabulary, loaded.sizes.nbytes))
