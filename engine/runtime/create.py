"""From a model's name to a running local Backend: where it lies, whether it fits, how it is set up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from engine.backend import Sampler
from engine.load.checkpoint import Checkpoint, inspect
from engine.load.choose import described
from engine.load.errors import DoesNotFit, ModelError
from engine.load.identity import contents
from engine.load.json_file import read_json
from engine.load.locate import locate, shown_name
from engine.load.tokenizer import HubTokenizer
from engine.page_files import PageFolder
from engine.protocol import ModelInfo, ModelSpec
from engine.quantized_folder import QuantizedFolder
from engine.runtime.assemble import affordable, assemble, fitting, longest_context
from engine.runtime.create_draft import OFF, inspect_draft, speculation
from engine.runtime.device import torch_device
from engine.runtime.fingerprint import fingerprint
from engine.runtime.local import LocalBackend
from engine.runtime.memory import system_memory
from engine.runtime.pages import PAGE
from engine.runtime.storage import KINDS
from engine.runtime.store import open_store
from profiles.catalogue import Profile
from profiles.costs import kv_bytes_per_token
from profiles.detect import Settings
from profiles.fit import DEFAULT_CONTEXT, SMALL_BYTES

THINK_STEPS = (256, 1024, 4096)
"""Thinking caps for a model whose folder has no mull.json that states its own."""


def create(
    spec: ModelSpec,
    profile: Profile,
    settings: Settings,
    on_progress: Callable[[str, int | None, int | None], None] = lambda *_: None,
    prompts: PageFolder | None = None,
    quantized: QuantizedFolder | None = None,
) -> LocalBackend:
    """Load the model; blocking. `on_progress(stage, bytes done, bytes in total)`.

    `prompts` and `quantized` are where prompts, and weights that are quantized here, are kept on disk, if
    they are. Raises ModelError for whatever a person can cause, DoesNotFit where memory is short.
    `thinking_format` in the result's info is what the model's folder states, or None: formats are resolved
    above.
    """
    on_progress("checking the model", None, None)
    folder = locate(spec.model)
    checkpoint = inspect(folder)
    device = torch_device(spec.device or settings.device)
    small = sum(checkpoint.source.sizes.values()) < SMALL_BYTES
    # of a small model each operation is over before a second thread wakes
    threads = spec.threads or (1 if small else settings.threads)
    torch.set_num_threads(threads)
    free = system_memory(device).free
    dtype, plan = fitting(checkpoint, spec.quant, profile, settings.dtype, free, device)
    tokenizer = HubTokenizer(folder)
    if tokenizer.size > checkpoint.shape.vocab:
        raise ModelError(
            f"{folder / 'tokenizer.json'} has {tokenizer.size} tokens, "
            f"the model's vocabulary only {checkpoint.shape.vocab}",
            "tokenizer and weights are of different models; download the model again",
        )
    think_steps, thinking_format, answer_reserve = _own_settings(folder)
    _refuse_for_stock_cache(spec, checkpoint)
    draft = inspect_draft(spec, checkpoint, tokenizer)
    loaded = assemble(
        checkpoint,
        dtype,
        device,
        plan,
        quantized,
        not small or spec.deterministic,
        spec.deterministic,
        KINDS[spec.kv],
        lambda shape: _context(spec, checkpoint, affordable(shape, device), kv_bytes_per_token(shape)),
        on_progress,
    )
    context = loaded.context
    quantization = described(plan, checkpoint.source, loaded.sizes)
    # the bits of torch's own products, and of transformers' experts, depend on how many tokens they are given
    exact = spec.deterministic and "packed" in loaded.path and not loaded.shape.experts
    exact = exact and (quantization is None or loaded.kernels is not None)
    kv_dtype = dtype if spec.kv == "model" else spec.kv
    arithmetic = [
        loaded.capability,
        dtype,
        *loaded.sizes.kinds,
        *([f"kv-{kv_dtype}"] if kv_dtype != dtype else []),
        *loaded.path,
        *(["exact"] if exact else []),
        f"{threads}t",
    ]
    kernel_class = "-".join(arithmetic)
    named = fingerprint(checkpoint, plan, kernel_class)
    return LocalBackend(
        info=ModelInfo(
            name=shown_name(spec.model, folder),
            path=str(folder),
            revision=folder.name if folder.parent.name == "snapshots" else None,
            architecture=checkpoint.model_class.__name__,
            parameters=loaded.sizes.parameters,
            weight_bytes=loaded.sizes.nbytes,
            dtype=dtype,
            kv_dtype=kv_dtype,
            weights=(checkpoint.source.quantization or plan.name) if quantization else dtype,
            quantization=quantization,
            device=device,
            profile=profile.id,
            context=context,
            longest_context=longest_context(checkpoint.config),
            threads=threads,
            thinking_format=thinking_format,
            think_steps=tuple(step for step in think_steps if step < context),
            answer_reserve=answer_reserve,
            fingerprint=named.hex(),
            weights_digest=contents(checkpoint.source.files),
        ),
        shape=loaded.shape,
        profile=profile,
        tokenizer=tokenizer,
        defaults=_defaults(folder),
        kernel_class=kernel_class,
        runner=loaded.runner,
        speculation=speculation(spec, draft, loaded, profile, settings.dtype, device, on_progress),
        store=(open_store(prompts, named, loaded.paged.pool) if prompts and loaded.paged else None),
    )


def _refuse_for_stock_cache(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """What only pages make possible cannot be asked of a model without. Raises ModelError."""
    wanted = {
        "int8 keys and values": spec.kv != "model",
        "drafts": spec.draft not in (None, OFF),
    }
    for what, asked in wanted.items():
        if asked and not checkpoint.paged:
            raise ModelError(
                f"{checkpoint.config.model_type} runs on transformers' own cache, without {what}",
                "leave that option out, or use another model",
            )


def _context(spec: ModelSpec, checkpoint: Checkpoint, affordable: int, token_bytes: float) -> int:
    """Tokens that the cache holds: as asked, else the default; within the model's and the memory's bounds."""
    longest = longest_context(checkpoint.config)
    wanted = spec.context or min(longest, DEFAULT_CONTEXT)
    if spec.context is not None and not PAGE <= spec.context <= longest:
        raise ModelError(
            f"a context of {spec.context} tokens is not between {PAGE} and the model's {longest}"
        )
    if affordable < (spec.context or PAGE):
        raise DoesNotFit(
            f"a context of {wanted} tokens takes {wanted * token_bytes / 1e9:.1f} GB, "
            f"a quarter of the free memory holds {affordable} tokens",
            "use a shorter context, or free memory",
        )
    return min(wanted, affordable)


def _own_settings(folder: Path) -> tuple[tuple[int, ...], str | None, int | None]:
    """What a folder's mull.json states: useful thinking caps, ascending, the thinking format's name, and the
    tokens that nearly all answers fit into.
    """
    path = folder / "mull.json"
    values = read_json(path) if path.is_file() else {}
    steps = values.get("think_steps", THINK_STEPS)
    if not isinstance(steps, list | tuple) or not all(isinstance(step, int) and step > 0 for step in steps):
        raise ModelError(f"{path}: think_steps is not a list of positive integers")
    style, reserve = values.get("thinking_format"), values.get("answer_reserve")
    if reserve is not None and not (isinstance(reserve, int) and reserve > 0):
        raise ModelError(f"{path}: answer_reserve is not a positive integer")
    return tuple(sorted(set(steps))), style if isinstance(style, str) else None, reserve


def _defaults(folder: Path) -> Sampler:
    """The model's own generation settings: greedy where they do not ask for sampling."""
    path = folder / "generation_config.json"
    values = read_json(path) if path.is_file() else {}

    def number(name: str, default: float) -> float:
        value = values.get(name)
        return value if isinstance(value, int | float) else default

    return Sampler(
        temperature=number("temperature", 1.0) if values.get("do_sample") else 0.0,
        top_p=number("top_p", 1.0),
        top_k=int(number("top_k", 0)),
        seed=0,
    )
