"""Other programs' stores of models, laid out in a home as these programs do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path


def put_in_ollama(root: Path, name: str, model: Path | None, owner: str = "library") -> Path:
    """`name` is `model:tag`; without a model the manifest's blob is missing. Returns the blob."""
    data = model.read_bytes() if model else b"lost"
    digest = hashlib.sha256(data).hexdigest()
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    if model:
        blob.write_bytes(data)
    manifest = root / "manifests" / "registry.ollama.ai" / owner / Path(*name.split(":"))
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{of}", "size": 1}
        for kind, of in (("template", "0" * 64), ("model", digest), ("params", "1" * 64))
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def put_in_lm_studio(root: Path, name: str, *files: Path) -> Path:
    """`name` is `publisher/model`."""
    folder = root / name
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder)
    return folder


def put_in_cache(hub: Path, repository: str, *files: Path) -> Path:
    """A repository in the Hugging Face cache; returns its snapshot."""
    commit = "a" * 40
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for part in (snapshot, folder / "refs", folder / "blobs"):
        part.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for number, file in enumerate(files):
        blob = folder / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot
