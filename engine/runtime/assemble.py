"""From a checked checkpoint to a forward over pages: in which dtype, over how many pages, by which path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.load.checkpoint import Checkpoint
from engine.load.choose import choose, smallest
from engine.load.errors import DoesNotFit
from engine.load.foresee import foresee
from engine.load.model import Progress
from engine.load.plan import QuantPlan
from engine.load.planned import load_by
from engine.nn import attention
from engine.nn.kernels.cpu import used_for
from engine.nn.linear import can_pack
from engine.nn.quant_modules import matrices_of
from engine.nn.sizes import Sizes, sizes_of
from engine.quantized_folder import QuantizedFolder
from engine.runtime.agreement import fastest_forward
from engine.runtime.memory import system_memory
from engine.runtime.pages import PAGE, PagePool
from engine.runtime.runner import AnyRunner, Forward, Runner, StockForward
from engine.runtime.storage import StorageKind
from engine.runtime.unpaged import CachePool, CacheRunner
from profiles.catalogue import Profile
from profiles.costs import kv_bytes_per_token, state_bytes
from profiles.fit import BYTES, affordable_context, loading_dtype
from profiles.shape import ModelShape

CONTEXTS = 4
"""Full contexts that pages hold where memory allows: for samples in parallel and what they leave behind."""

STOCK_ATTENTION = "sdpa"
"""transformers' own, where the model does not run over pages."""


@dataclass(frozen=True)
class Paged:
    """What a model over pages runs by."""

    forward: Forward
    pool: PagePool
    packed: bool


@dataclass(frozen=True)
class Assembled:
    """A model in memory, ready to run; `shape` has the bytes per weight that it was loaded with."""

    shape: ModelShape
    context: int
    runner: AnyRunner
    paged: Paged | None
    """None where it runs on transformers' own cache."""
    sizes: Sizes
    capability: str
    kernels: str | None
    """Those for all its quantized matrices; None where torch multiplies with them, or there are none."""

    @property
    def path(self) -> tuple[str, ...]:
        """By which path it computes, as the kernel class names it."""
        if self.paged is None:
            path: tuple[str, ...] = ("stock-cache",)
        else:
            path = ("stock" if isinstance(self.paged.forward, StockForward) else "fused",)
            path += ("packed",) if self.paged.packed else ()
            by_kernel = self.paged.pool.storage.attention
            path += (f"attention-{by_kernel.instruction_set}",) if by_kernel is not None else ()
        return (*path, f"kernels-{self.kernels}") if self.kernels else path


def assemble(
    checkpoint: Checkpoint,
    dtype: str,
    device: str,
    plan: QuantPlan,
    quantized: QuantizedFolder | None,
    pack: bool,
    exact: bool,
    kind: StorageKind,
    context_of: Callable[[ModelShape], int],
    on_progress: Progress,
) -> Assembled:
    """Load the model; blocking. `context_of` says how many tokens a model of this shape gets.

    `quantized` is where weights that are quantized here are kept, if they are.
    Over pages, weights are packed where they can be and `pack` says so, `kind` keeps keys and values, and
    `exact` is as for `Runner`. Raises ModelError.
    """
    attention.register()
    name = attention.NAME if checkpoint.paged else STOCK_ATTENTION
    model = load_by(plan, checkpoint, dtype, device, name, on_progress, quantized)
    sizes, head_dim = sizes_of(model), checkpoint.shape.head_dim
    kv_bytes = kind.vector_bytes(head_dim, model.dtype) / head_dim
    shape = replace(
        checkpoint.shape, weight_bytes=sizes.weight_bytes, head_bytes=sizes.head_bytes, kv_bytes=kv_bytes
    )
    context = context_of(shape)
    pages = max(-(-context // PAGE), min(CONTEXTS * -(-context // PAGE), affordable(shape, device) // PAGE))
    capability = torch.backends.cpu.get_cpu_capability().lower() if device == "cpu" else "cuda"
    paged: Paged | None
    runner: AnyRunner
    if checkpoint.paged:
        pool = PagePool(shape.layers, shape.kv_heads, head_dim, pages, model.dtype, device, kind)
        # compared over keys and values as computed: rounding them would be a difference of its own
        plain = PagePool(shape.layers, shape.kv_heads, head_dim, 1, model.dtype, device)
        packed = can_pack(model.dtype, device) and pack
        forward = fastest_forward(model, StockForward(model), plain, context, packed)
        paged, runner = Paged(forward, pool, packed), Runner(forward, pool, exact)
    else:
        caches = CachePool(pages, PAGE * kv_bytes_per_token(shape), state_bytes(shape))
        paged, runner = None, CacheRunner(model, caches)
    return Assembled(
        shape=shape,
        context=context,
        runner=runner,
        paged=paged,
        sizes=sizes,
        capability=capability,
        kernels=used_for(matrices_of(model)),
    )


def affordable(shape: ModelShape, device: str) -> int:
    """Tokens whose keys and values the free memory can take."""
    return affordable_context(shape, system_memory(device).free)


def fitting(
    checkpoint: Checkpoint,
    quant: str | None,
    profile: Profile,
    preferred: str,
    free: int,
    device: str = "cpu",
) -> tuple[str, QuantPlan]:
    """The dtype of what is not quantized, and what is.

    Raises DoesNotFit, and ModelError where the files are not the model of their configuration.
    """
    foreseen = foresee(checkpoint)

    def plan_for(itemsize: int) -> QuantPlan:
        return choose(quant, profile, foreseen, itemsize, free)

    dtype = loading_dtype(
        checkpoint.source.dtype, preferred, lambda size: foreseen.memory(plan_for(size), size), free, device
    )
    plan = plan_for(BYTES[dtype])
    if (needed := foreseen.memory(plan, BYTES[dtype])) > free:
        nearest = smallest(foreseen, BYTES[dtype], free)
        raise DoesNotFit(
            f"{checkpoint.folder} needs {needed / 1e9:.1f} GB for its weights, {free / 1e9:.1f} GB are free",
            f"load it with --quant {nearest}" if nearest else "use a smaller model, or free memory",
        )
    return dtype, plan


def longest_context(config: Any) -> int:
    """Positions over which the model's keys stay valid: some rotary embeddings change beyond the original."""
    rope = getattr(config, "rope_parameters", None) or {}
    changing = rope.get("rope_type") in ("longrope", "dynamic")
    original = rope.get("original_max_position_embeddings") if changing else None
    return int(original or config.max_position_embeddings)
