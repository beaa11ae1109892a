"""Goes through a model layer by layer with texts, for solvers that look at a linear's inputs.

Each layer is given what the layers before it make of the texts as they are by then: quantized. Knows
transformers' modules, no files and no formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from engine.load.errors import ModelError
from engine.load.plan import ROUTERS

_TOKENS_AT_ONCE = 2048
_TOLERANCE = 1e-3
_ROUNDING = "use --to int4 or int8, which need no layers of their own"


class _Stop(Exception):
    """What was wanted of a forward is there."""


@dataclass
class Batch:
    """Texts padded at the right to one length: `hidden` [rows, length, width] is what a layer is given.

    `real` [rows, length]: where there is text. `calls`: what else each layer is called with.
    """

    hidden: torch.Tensor
    real: torch.Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]


def decoder_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """The path of the list of a model's layers, and the list. Raises ModelError."""
    count = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ModelError(f"{type(model).__name__} has no list of {count} layers", _ROUNDING)


@torch.inference_mode()
def batches(model: Any, layers: nn.ModuleList, texts: Sequence[list[int]]) -> list[Batch]:
    """The texts as the first layer is given them. Raises ModelError where layers do not run one by one."""
    found = [_batch(model, layers, group) for group in _by_length(texts)]
    _check(model, layers, found[-1], _by_length(texts)[-1])
    return found


def run_layer(layer: nn.Module, number: int, batch: Batch) -> torch.Tensor:
    """What a layer makes of a batch."""
    arguments, keywords = batch.calls[number]
    device = next(layer.parameters()).device
    moved = tree_map_only(torch.Tensor, lambda part: _fitting(part, device), (arguments, keywords))
    out = layer(_fitting(batch.hidden, device), *moved[0], **moved[1])
    result: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return result.to(batch.hidden.device)


def sharing(layer: nn.Module, number: int, batch: Batch) -> list[list[str]]:
    """A layer's linears in the order in which they are called, those with the same input together."""
    groups: dict[int, list[str]] = {}
    kept: list[torch.Tensor] = []  # so that no two inputs have one identity
    with _hooks(layer) as inputs_of:

        def note(name: str, x: torch.Tensor) -> None:
            kept.append(x)
            groups.setdefault(id(x), []).append(name)

        inputs_of(linears(layer), note)
        run_layer(layer, number, batch)
    return list(groups.values())


def inputs(layer: nn.Module, number: int, of: str, batch: Batch) -> torch.Tensor:
    """What one of a layer's linears is given of a batch's text, [tokens, in]."""
    found: list[torch.Tensor] = []

    def take(_: str, x: torch.Tensor) -> None:
        found.append(x)
        raise _Stop

    with _hooks(layer) as inputs_of:
        inputs_of({of: linears(layer)[of]}, take)
        try:
            run_layer(layer, number, batch)
        except _Stop:
            pass
    rows = found[0].reshape(-1, found[0].shape[-1])
    return rows[batch.real.flatten().to(rows.device)]


def routed(layer: nn.Module, number: int, of: str, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What a module of experts is given of a batch's text: [tokens, in], and which experts, [tokens, k]."""
    found: list[torch.Tensor] = []

    def take(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        found.extend(given[:2])
        raise _Stop

    handle = layer.get_submodule(of).register_forward_pre_hook(take)
    try:
        run_layer(layer, number, batch)
    except _Stop:
        pass
    finally:
        handle.remove()
    real = batch.real.flatten().to(found[0].device)
    hidden, chosen = (part.reshape(len(real), -1)[real] for part in found)
    return hidden, chosen


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """Those that are solved: routers stay as they are."""
    return {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] not in ROUTERS
    }


def _fitting(part: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device; layers are computed in float32."""
    return part.to(device, torch.float32 if part.is_floating_point() else part.dtype)


@contextmanager
def _hooks(layer: nn.Module) -> Iterator[Any]:
    """Lets modules of a layer tell what they are given, by name, until the context ends."""
    handles = []

    def inputs_of(modules: dict[str, nn.Linear], tell: Any) -> None:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(lambda _, given, name=name: tell(name, given[0])))

    try:
        yield inputs_of
    finally:
        for handle in handles:
            handle.remove()


def _by_length(texts: Sequence[list[int]]) -> list[list[list[int]]]:
    """Texts of like lengths together, longest last, in all as many tokens as are computed at once."""
    groups: list[list[list[int]]] = [[]]
    for text in sorted(texts, key=len):
        if groups[-1] and (len(groups[-1]) + 1) * len(text) > _TOKENS_AT_ONCE:
            groups.append([])
        groups[-1].append(text)
    return groups


def _batch(model: Any, layers: nn.ModuleList, texts: list[list[int]]) -> Batch:
    length = len(texts[-1])
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    real = torch.tensor([[True] * len(text) + [False] * (length - len(text)) for text in texts])
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    _forward(model, layers, ids[:1], lambda _, rest: calls.append(rest))
    first: list[torch.Tensor] = []

    def take(hidden: torch.Tensor, _: object) -> None:
        first.append(hidden)
        raise _Stop

    _forward(model, layers, ids, take)
    return Batch(first[0].float(), real, calls)


def _forward(model: Any, layers: nn.ModuleList, ids: torch.Tensor, tell: Any) -> None:
    """Run the model; each layer tells what it is given: hidden states, and all else."""
    handles = [
        layer.register_forward_pre_hook(
            lambda _, given, keywords: tell(given[0], (given[1:], keywords)), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=1)
    except _Stop:
        pass
    except IndexError as error:
        raise ModelError(
            f"{type(model).__name__} calls its layers in a way that is not known", _ROUNDING
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _check(model: Any, layers: nn.ModuleList, batch: Batch, texts: list[list[int]]) -> None:
    """The layers one by one must give what the model gives: some have more between them than is seen here."""
    if len(layers) < 2:
        return
    given: list[torch.Tensor] = []
    length = len(texts[-1])
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    _forward(model, layers, ids, lambda hidden, _: given.append(hidden))
    alone = Batch(given[0].float(), batch.real, batch.calls)
    for number, layer in enumerate(layers[:-1]):
        alone.hidden = _in_float(layer, number, alone)
    expected = given[-1].float()
    real = batch.real.to(expected.device)
    distance = (alone.hidden - expected)[real].norm() / expected[real].norm()
    half = next(model.parameters()).dtype != torch.float32
    if not distance <= (30 * _TOLERANCE if half else _TOLERANCE):
        raise ModelError(f"{type(model).__name__} does not run layer by layer", _ROUNDING)


def _in_float(layer: nn.Module, number: int, batch: Batch) -> torch.Tensor:
    dtype = next(layer.parameters()).dtype
    layer.float()
    try:
        return run_layer(layer, number, batch)
    finally:
        layer.to(dtype)
