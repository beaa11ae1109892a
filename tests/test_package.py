"""The installed distribution is complete, and it is what the tests run."""

import sysconfig
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "engine", "profiles", "assets")
PASSING = ("__pycache__", ".pyc")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(mark in str(path) for mark in PASSING)
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_every_file_of_a_package_comes_from_site_packages(name: str) -> None:
    module_file = import_module(name).__file__
    assert module_file is not None
    installed = Path(module_file).parent
    assert installed.parent == Path(sysconfig.get_path("purelib")), f"{name} is imported from {installed}"
    missing = files(ROOT / name).keys() - files(installed).keys()
    assert not missing
    assert files(ROOT / name) == files(installed)


def test_the_kinds_of_data_that_the_product_needs_are_among_them() -> None:
    suffixes = {Path(file).suffix for name in PACKAGES for file in files(ROOT / name)}
    assert suffixes >= {".py", ".toml", ".tcss", ".json", ".safetensors"}


def test_the_version_has_one_source() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{version("mull")}"' in project
    assert f"## {version('mull')}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
