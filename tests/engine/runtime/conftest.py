"""Checkpoints and backends for the tests of the local backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from random_checkpoint import reference, save_checkpoint

from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
from engine.runtime.pages import PagePool
from engine.runtime.runner import Runner
from engine.runtime.speculation import Speculation
from profiles.detect import Settings, detect

CPU = Settings(device="cpu", dtype="fp32", threads=1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random model of a family, made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = save_checkpoint(tmp_path_factory.mktemp(family), family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def load(checkpoint: Callable[[str], Path]) -> Iterator[Callable[[str], LocalBackend]]:
    """A running backend of a family, loaded once by the real loader."""
    loaded: dict[str, LocalBackend] = {}
    profile = detect().profile

    def get(family: str) -> LocalBackend:
        if family not in loaded:
            spec = ModelSpec(model=str(checkpoint(family)), draft="off")  # token by token
            loaded[family] = create(spec, profile, CPU)
        return loaded[family]

    yield get
    for backend in loaded.values():
        backend.close()


@pytest.fixture
def small(load: Callable[[str], LocalBackend]) -> Iterator[Callable[..., LocalBackend]]:
    """A backend over the model of a loaded one, with so many pages and a speculation of its own, if any."""
    made: list[LocalBackend] = []

    def get(pages: int, family: str = "qwen3", speculation: Speculation | None = None) -> LocalBackend:
        loaded = load(family)
        shape, dtype = loaded.shape, loaded.runner.pool.dtype
        own = PagePool(shape.layers, shape.kv_heads, shape.head_dim, pages, dtype, loaded.info.device)
        made.append(
            LocalBackend(
                info=loaded.info,
                shape=loaded.shape,
                profile=loaded.profile,
                tokenizer=loaded.tokenizer,
                defaults=loaded.defaults,
                kernel_class=loaded.kernel_class,
                runner=Runner(loaded.runner._forward, own),
                speculation=speculation,
            )
        )
        return made[-1]

    yield get
    for backend in made:
        if not backend._closed:
            backend.close()


@pytest.fixture(scope="session")
def predicted(checkpoint: Callable[[str], Path]) -> Callable[[str, list[int]], np.ndarray]:
    """transformers' logits after each of some ids, [ids, vocabulary]."""
    model = cache(lambda family: reference(checkpoint(family)))

    @torch.no_grad()
    def get(family: str, ids: list[int]) -> np.ndarray:
        logits: np.ndarray = model(family)(torch.tensor([ids])).logits[0].float().numpy()
        return logits

    return get


@pytest.fixture
def qwen3(load: Callable[[str], LocalBackend]) -> LocalBackend:
    return load("qwen3")
