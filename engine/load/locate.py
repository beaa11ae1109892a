"""From a model's name, folder or repository to a local folder. Downloads nothing, knows no torch."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from engine.load.errors import ModelError

BUNDLED = ("tiny",)
"""Models that are installed with the package."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def shown_name(model: str, folder: Path) -> str:
    """What a model that was found in a folder is called: as it was asked for, but a path by its last part."""
    return model if model in BUNDLED or not Path(model).is_dir() else folder.name


def locate(model: str) -> Path:
    """The folder with the model's config.json.

    A bundled name comes first, then a folder, then a repository `owner/name` in the local Hugging Face
    cache. Raises ModelError.
    """
    if model in BUNDLED:
        return _bundled(model)
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            raise ModelError(f"{model} is a file, not a model folder", "name the folder with config.json")
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown home, with a NUL in it
        cause = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{model[:80]!r} is not a usable path: {cause}", "check the spelling") from error
    if _REPOSITORY.fullmatch(model):
        return _cached_repository(model)
    raise ModelError(
        f"no model {model[:200]!r}: it is neither bundled ({', '.join(BUNDLED)}), nor a folder, "
        "nor a repository owner/name",
        "check the spelling, or give the path of a folder with config.json",
    )


def _bundled(name: str) -> Path:
    folder = Path(str(files("assets") / name))
    if not (folder / "config.json").is_file():
        raise ModelError(f"the bundled model {name!r} is missing from {folder}", "install mull again")
    return folder


def _folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json", "name a folder in Hugging Face format")
    return path.resolve()


def _cached_repository(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _folder(Path(snapshot_download(repository, local_files_only=True)))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{repository} is not in the local Hugging Face cache, and there is no folder of that name",
            f"download it first with `hf download {repository}`",
        ) from error
