"""Checkpoints and backends for the tests of the local backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from random_checkpoint import save_checkpoint

from engine.protocol import ModelSpec
from engine.runtime.create import create
from engine.runtime.local import LocalBackend
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
def qwen3(load: Callable[[str], LocalBackend]) -> LocalBackend:
    return load("qwen3")
