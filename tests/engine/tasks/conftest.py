"""The bundled checkpoint, for the tests that examine it."""

from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from engine.tasks.examinee import Examinee


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with as_file(files("assets") / "tiny") as path:
        yield path


@pytest.fixture(scope="module")
def examinee(folder: Path) -> Examinee:
    return Examinee.load(folder)
