"""Where other programs keep models: the Hugging Face cache, LM Studio, Ollama. Changes nothing there.

Knows names and files only: no torch, nothing of what is in a model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.load.errors import ModelError
from engine.load.gguf.header import SPLIT

Store = Literal["bundled", "huggingface", "lmstudio", "ollama"]
OLLAMA, LM_STUDIO = "ollama:", "lmstudio:"
"""What names of these stores' models begin with."""

_PROJECTOR = "mmproj"
"""Begins the names of GGUF files that hold only what turns images into embeddings."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_MANIFEST = 2**20  # bytes


@dataclass(frozen=True)
class Stored:
    """A model in a store; `name` is what `--model` takes."""

    name: str
    store: Store
    path: Path | None
    """The folder with config.json, or the GGUF file; None where it has no weights, as far as can be read."""
    nbytes: int
    """On disk."""


def ollama_models() -> Iterator[Stored]:
    """What Ollama has, in every store of it that can be read: `ollama:qwen3:0.6b`."""
    for root in _existing(
        os.environ.get("OLLAMA_MODELS"), "~/.ollama/models", "/usr/share/ollama/.ollama/models"
    ):
        manifests = root / "manifests"
        for manifest in sorted(manifests.glob("*/*/*/*")):
            if _is_file(manifest):
                host, owner, model, tag = manifest.relative_to(manifests).parts
                places = ["" if host.startswith("registry.") else host, "" if owner == "library" else owner]
                name = "/".join([*filter(None, places), model])
                blob = _blob(root, manifest)
                yield Stored(f"{OLLAMA}{name}:{tag}", "ollama", blob, _size(blob) if blob else 0)


def lmstudio_models() -> Iterator[Stored]:
    """What LM Studio has: `lmstudio:publisher/model`, with the file's name where there are several."""
    for root in _existing("~/.lmstudio/models", "~/.cache/lm-studio/models"):
        for folder in sorted(root.glob("*/*")):
            if _is_dir(folder):
                name = f"{LM_STUDIO}{folder.parent.name}/{folder.name}"
                yield from _in_folder(name, folder, "lmstudio")


def huggingface_models() -> Iterator[Stored]:
    """What the Hugging Face cache has: `owner/name`, with the file's name where it has several GGUF files."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        cache = scan_cache_dir()
    except (CacheNotFound, ValueError, OSError):  # none yet, a file in its place, or another user's
        return
    for repository in sorted(cache.repos, key=lambda repository: repository.repo_id):
        if repository.repo_type == "model" and repository.revisions:
            newest = max(
                repository.revisions, key=lambda revision: ("main" in revision.refs, revision.last_modified)
            )
            yield from _in_folder(repository.repo_id, newest.snapshot_path, "huggingface")


def find(name: str) -> Stored | None:
    """A model by the name that it is listed under, but those of the Hugging Face cache; None for no model.

    Ollama's tag `latest` and LM Studio's prefix may be left out. Raises ModelError where several are meant.
    """
    if name.startswith(OLLAMA):
        tagged = name if ":" in name.removeprefix(OLLAMA).rpartition("/")[2] else f"{name}:latest"
        return next((found for found in ollama_models() if found.name == tagged), None)
    wanted = LM_STUDIO + name.removeprefix(LM_STUDIO)
    models = list(lmstudio_models())
    for found in models:
        if wanted in (found.name, f"{found.name}/{found.path.name if found.path else ''}"):
            return found
    if several := [found.name for found in models if found.name.startswith(f"{wanted}/")]:
        raise _choice(name, several)
    return None


def model_files(folder: Path) -> list[Path]:
    """The GGUF models in a folder; of one that is split, its first file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.gguf")):
        if not path.name.lower().startswith(_PROJECTOR):
            shard = SPLIT.fullmatch(path.name)
            found.setdefault(shard[1] if shard else path.name, path)
    return list(found.values())


def only_model_file(folder: Path, name: str) -> Path | None:
    """The one GGUF model in a folder, None where it has none. Raises ModelError where it has several."""
    files = model_files(folder)
    if len(files) > 1:
        raise _choice(name, [f"{name}/{file.name}" for file in files])
    return files[0] if files else None


def _choice(name: str, names: list[str]) -> ModelError:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return ModelError(f"{name} has {len(names)} GGUF models", f"name one of them: {shown}")


def _existing(*folders: str | None) -> list[Path]:
    """Folders that are there and may be seen, each once."""
    found = []
    for folder in filter(None, folders):
        try:
            path = Path(folder).expanduser()
        except RuntimeError:  # of a user who is not there
            continue
        if _is_dir(path):
            found.append(path)
    return list(dict.fromkeys(found))


def _in_folder(name: str, folder: Path, store: Store) -> Iterator[Stored]:
    files = [] if _is_file(folder / "config.json") else model_files(folder)
    if not files:
        yield Stored(name, store, folder, sum(_size(path) for path in folder.rglob("*")))
    for file in files:
        shard = SPLIT.fullmatch(file.name)
        parts = folder.glob(f"{shard[1]}-*.gguf") if shard else [file]
        own = name if len(files) == 1 else f"{name}/{file.name}"
        yield Stored(own, store, file, sum(_size(part) for part in parts))


def _blob(root: Path, manifest: Path) -> Path | None:
    """The file with the weights that a manifest names, where it is there."""
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(_MAX_MANIFEST))["layers"]
        digests = [layer["digest"] for layer in layers if layer["mediaType"].endswith(".image.model")]
        digest = _DIGEST.fullmatch(digests[0])
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    blob = root / "blobs" / f"sha256-{digest[1]}" if digest else None
    return blob if blob and _is_file(blob) else None


def _size(path: Path) -> int:
    return path.stat().st_size if _is_file(path) else 0


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # it may not be seen
        return False


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
