"""Which build of mull this is: two processes that share a socket must be of the same one."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def mull_version() -> str:
    """The installed distribution's version."""
    try:
        return version("mull")
    except PackageNotFoundError:
        return "0+unknown"


@cache
def build_id() -> str:
    """The version and the newest change to the engine's code, so that an upgraded or edited one differs."""
    root = Path(__file__).parent
    newest = max(path.stat().st_mtime_ns for path in root.rglob("*.py"))
    return f"{mull_version()}+{newest // 1_000_000:x}"
