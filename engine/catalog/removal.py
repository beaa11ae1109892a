"""Removes repositories from the Hugging Face cache. Other programs' stores are theirs to change."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL
from typing import Any

from engine.load.locate import BUNDLED
from engine.load.stores import LM_STUDIO, OLLAMA


class CannotRemove(Exception):
    """The cause in one line, and the next step in `hint`."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def removable_bytes(name: str) -> int:
    """What removing a repository frees. Raises CannotRemove."""
    return int(_repository(name).size_on_disk)


def remove(name: str) -> None:
    """Delete all of a repository's files. Raises CannotRemove, also where some could not be deleted."""
    from huggingface_hub import scan_cache_dir

    repository = _repository(name)
    # of this repository alone: a copy of it on the hub has the same commits
    cache = dataclasses.replace(scan_cache_dir(), repos=frozenset({repository}))
    doomed = cache.delete_revisions(*(revision.commit_hash for revision in repository.revisions))
    cause = None
    try:
        with _silent():
            doomed.execute()
    except OSError as error:
        cause = error.strerror or "the disk refuses"
    if cause is None and os.path.lexists(repository.repo_path):
        cause = "permission denied"  # the one error that huggingface_hub keeps to itself
    if cause is not None:
        raise CannotRemove(
            f"{name} could not be removed: {cause}", f"see who may delete {repository.repo_path}"
        )


@contextmanager
def _silent() -> Iterator[None]:
    """huggingface_hub logs, with a traceback, what it may not delete, and goes on."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _repository(name: str) -> Any:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    if name in BUNDLED:
        raise CannotRemove(f"{name} is part of mull")
    if name.startswith(OLLAMA):
        raise CannotRemove(
            f"{name} is in Ollama's store, which mull only reads",
            f"use: ollama rm {name.removeprefix(OLLAMA)}",
        )
    if name.startswith(LM_STUDIO):
        raise CannotRemove(f"{name} is in LM Studio's folders, which mull only reads", "remove it there")
    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, ValueError, OSError):
        repositories = frozenset()
    for repository in repositories:
        if repository.repo_type == "model" and repository.repo_id == name:
            return repository
    raise CannotRemove(f"{name[:200]} is not a repository in the Hugging Face cache", "see: mull models")
