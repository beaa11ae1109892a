"""From a model's name, folder or repository to a local folder or file. Downloads nothing, knows no torch."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from engine.load import stores
from engine.load.errors import ModelError

BUNDLED = ("tiny",)
"""Models that are installed with the package."""

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/([\w.-]+\.gguf))?")


def shown_name(model: str, path: Path) -> str:
    """What a model that was found at a path is called: as it was asked for, but a path by its last part."""
    return model if model in BUNDLED or not Path(model).exists() else path.name


def locate(model: str) -> Path:
    """The folder with the model's config.json, or its GGUF file.

    A bundled name comes first, then a path, then a repository `owner/name` in the local Hugging Face cache
    and the same in LM Studio's folders; `ollama:…` and `lmstudio:…` name these stores. Raises ModelError.
    """
    if model in BUNDLED:
        return _bundled(model)
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown home, with a NUL in it
        cause = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{model[:80]!r} is not a usable path: {cause}", "check the spelling") from error
    try:
        if model.startswith((stores.OLLAMA, stores.LM_STUDIO)):
            return _in_store(model)
        if repository := _REPOSITORY.fullmatch(model):
            return _cached_repository(model, *repository.groups())
    except OSError as error:
        raise ModelError(f"{model[:200]} cannot be read: {error.strerror}", "see who may read it") from error
    raise ModelError(
        f"no model {model[:200]!r}: it is neither bundled ({', '.join(BUNDLED)}), nor a folder, "
        "nor a repository owner/name",
        "check the spelling, or see: mull models",
    )


def _bundled(name: str) -> Path:
    folder = Path(str(files("assets") / name))
    if not (folder / "config.json").is_file():
        raise ModelError(f"the bundled model {name!r} is missing from {folder}", "install mull again")
    return folder


def _folder(path: Path) -> Path:
    """A folder in Hugging Face format as it is, of one with a GGUF model that file."""
    if (path / "config.json").is_file():
        return path.resolve()
    found = stores.only_model_file(path, str(path))
    if found is None:
        raise ModelError(f"{path} has no config.json", "name a folder in Hugging Face format, or a GGUF file")
    return _file(found)


def _file(path: Path) -> Path:
    """Absolute, but a link as it is named: the parts of a model that is split lie beside it."""
    if path.suffix != ".gguf":
        raise ModelError(
            f"{path} is a file, not a model folder", "name the folder with config.json, or a GGUF file"
        )
    return path.absolute()


def _in_store(model: str) -> Path:
    found = stores.find(model)
    if found is None:
        raise ModelError(f"there is no {model[:200]} here", "see: mull models")
    if found.path is None:
        raise ModelError(f"{model} lacks its weights", "pull it again with the program that it belongs to")
    return _folder(found.path) if found.path.is_dir() else found.path


def _cached_repository(model: str, repository: str, file: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        if stores.find(model):
            return _in_store(model)
        raise ModelError(
            f"{model} is not in the local Hugging Face cache, and there is no folder of that name",
            f"download it first with `hf download {repository}`",
        ) from error
    if file is None:
        return _folder(folder)
    if not (folder / file).is_file():
        raise ModelError(f"{repository} has no {file} in the local Hugging Face cache", "see: mull models")
    return _file(folder / file)
