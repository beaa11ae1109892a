"""From a model's name to a running local Backend: where it lies, whether it fits, how it is set up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.backend import Sampler
from engine.load.checkpoint import Checkpoint, inspect, load_model, read_json
from engine.load.errors import DoesNotFit, ModelError
from engine.load.locate import BUNDLED, locate
from engine.load.tokenizer import HubTokenizer
from engine.nn import attention
from engine.nn.linear import can_pack
from engine.protocol import ModelInfo, ModelSpec
from engine.runtime.agreement import fastest_forward
from engine.runtime.fingerprint import fingerprint
from engine.runtime.local import LocalBackend
from engine.runtime.memory import system_memory
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.runner import Runner, StockForward
from profiles.catalogue import Profile
from profiles.costs import kv_bytes_per_token
from profiles.detect import Settings

DEFAULT_CONTEXT = 8192
"""Tokens, where neither the request nor the model says less."""
SMALL_BYTES = 64 * 2**20
"""Weights below which a second thread costs more than it gives: each operation is over before it wakes."""
CONTEXTS = 4
"""Full contexts that the pages hold where memory allows: for samples in parallel and what they leave behind."""
KV_SHARE = 0.25
"""The part of the free memory that keys and values may take."""
THINK_STEPS = (256, 1024, 4096)
"""Thinking caps for a model whose folder has no mull.json that states its own."""

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_STORED = {"F32": "fp32", "F64": "fp32"}


def create(
    spec: ModelSpec,
    profile: Profile,
    settings: Settings,
    on_progress: Callable[[str, int | None, int | None], None] = lambda *_: None,
) -> LocalBackend:
    """Load the model; blocking. `on_progress(stage, bytes done, bytes in total)`.

    Raises ModelError for whatever a person can cause, DoesNotFit where memory is short. `thinking_format`
    in the result's info is what the model's folder states, or None: formats are resolved above.
    """
    on_progress("checking the model", None, None)
    folder = locate(spec.model)
    checkpoint = inspect(folder)
    device = _device(spec.device or settings.device)
    small = checkpoint.weights.total_bytes < SMALL_BYTES
    threads = spec.threads or (1 if small else settings.threads)
    torch.set_num_threads(threads)
    dtype = _dtype(checkpoint, settings.dtype, system_memory(device).free)
    tokenizer = HubTokenizer(folder)
    if tokenizer.size > checkpoint.shape.vocab:
        raise ModelError(
            f"{folder / 'tokenizer.json'} has {tokenizer.size} tokens, "
            f"the model's vocabulary only {checkpoint.shape.vocab}",
            "tokenizer and weights are of different models; download the model again",
        )
    think_steps, thinking_format = _own_settings(folder)
    attention.register()
    model = load_model(checkpoint, dtype, device, attention.NAME, on_progress)
    size = _BYTES[dtype]
    shape = replace(checkpoint.shape, weight_bytes=size, head_bytes=size, kv_bytes=size)
    context = _context(spec, checkpoint, kv_bytes_per_token(shape), system_memory(device).free)
    affordable = int(system_memory(device).free * KV_SHARE / kv_bytes_per_token(shape)) // PAGE
    pages = max(-(-context // PAGE), min(CONTEXTS * -(-context // PAGE), affordable))
    capability = torch.backends.cpu.get_cpu_capability().lower() if device == "cpu" else "cuda"
    pool = PagePool(
        shape.layers,
        shape.kv_heads,
        shape.head_dim,
        pages,
        model.dtype,
        device,
        fingerprint(checkpoint, dtype, f"{capability} {threads}"),
    )
    parameters = [(parameter.numel(), parameter.nbytes) for parameter in model.parameters()]
    packed = can_pack(model.dtype, device) and (not small or spec.deterministic)
    forward = fastest_forward(model, StockForward(model), pool, context, packed)
    kernel_class = [
        capability,
        dtype,
        "stock" if isinstance(forward, StockForward) else "fused",
        *(["packed"] if packed else []),
        *(["exact"] if spec.deterministic else []),
        f"{threads}t",
    ]
    return LocalBackend(
        info=ModelInfo(
            name=spec.model if spec.model in BUNDLED or not Path(spec.model).is_dir() else folder.name,
            path=str(folder),
            revision=folder.name if folder.parent.name == "snapshots" else None,
            architecture=checkpoint.model_class.__name__,
            parameters=sum(elements for elements, _ in parameters),
            weight_bytes=sum(size for _, size in parameters),
            dtype=dtype,
            device=device,
            profile=profile.id,
            context=context,
            longest_context=_longest(checkpoint.config),
            threads=threads,
            thinking_format=thinking_format,
            think_steps=tuple(step for step in think_steps if step < context),
        ),
        shape=shape,
        profile=profile,
        tokenizer=tokenizer,
        defaults=_defaults(folder),
        kernel_class="-".join(kernel_class),
        runner=Runner(forward, pool, exact=spec.deterministic),
    )


def _device(name: str) -> str:
    """torch's name of a device that is there. Raises ModelError."""
    if name == "cpu":
        return name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"there is no device {name[:40]!r}", "use cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if (device.index or 0) >= count:
        raise ModelError(f"device {name} is not there: torch sees {count} CUDA devices", "use --device cpu")
    return f"{device.type}:{device.index or 0}"


def _dtype(checkpoint: Checkpoint, preferred: str, free: int) -> str:
    """float32 checkpoints stay so; others get the machine's dtype, or 16 bits where only those fit."""
    elements = checkpoint.weights.elements
    dtype = _STORED.get(checkpoint.weights.dtype, preferred)
    if dtype == "fp32" and checkpoint.weights.dtype not in _STORED and elements * 4 > free:
        dtype = "bf16"
    if (needed := elements * _BYTES[dtype]) > free:
        raise DoesNotFit(
            f"{checkpoint.folder} needs {needed / 1e9:.1f} GB for its weights, {free / 1e9:.1f} GB are free",
            "use a smaller model, or free memory",
        )
    return dtype


def _context(spec: ModelSpec, checkpoint: Checkpoint, token_bytes: float, free: int) -> int:
    """Tokens that the cache holds: as asked, else the default; within the model's and the memory's bounds."""
    longest = _longest(checkpoint.config)
    affordable = int(free * KV_SHARE / token_bytes)
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


def _longest(config: Any) -> int:
    """Positions over which the model's keys stay valid: some rotary embeddings change beyond the original."""
    rope = getattr(config, "rope_parameters", None) or {}
    changing = rope.get("rope_type") in ("longrope", "dynamic")
    original = rope.get("original_max_position_embeddings") if changing else None
    return int(original or config.max_position_embeddings)


def _own_settings(folder: Path) -> tuple[tuple[int, ...], str | None]:
    """What a folder's mull.json states: useful thinking caps, ascending, and the thinking format's name."""
    path = folder / "mull.json"
    values = read_json(path) if path.is_file() else {}
    steps = values.get("think_steps", THINK_STEPS)
    if not isinstance(steps, list | tuple) or not all(isinstance(step, int) and step > 0 for step in steps):
        raise ModelError(f"{path}: think_steps is not a list of positive integers")
    style = values.get("thinking_format")
    return tuple(sorted(set(steps))), style if isinstance(style, str) else None


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
