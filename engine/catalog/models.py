"""All models on this machine that `--model` can name, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from engine.catalog.contents import read_contents
from engine.load import stores
from engine.load.errors import ModelError
from engine.load.locate import BUNDLED, locate
from engine.load.stores import Store, Stored
from profiles.fit import Verdict, fit


class Listed(Struct, frozen=True, kw_only=True):
    """A model in a store; figures are None where its files could not be read, and `problem` says why."""

    name: str
    store: Store
    path: str | None
    """The folder with config.json, or the GGUF file."""
    disk_bytes: int
    weights: str | None = None
    memory_bytes: int | None = None
    """What the weights take once loaded."""
    context: int | None = None
    """Tokens that it would get; 0 where it does not fit."""
    fits: Verdict | None = None
    problem: str | None = None


def list_models(preferred_dtype: str, free: int, device: str = "cpu") -> Iterator[Listed]:
    """Models by store, each as it would load into `free` bytes of memory without `--quant`."""
    for find in (_bundled, stores.huggingface_models, stores.lmstudio_models, stores.ollama_models):
        yield from _listed(find, preferred_dtype, free, device)


def _bundled() -> Iterator[Stored]:
    for name in BUNDLED:
        folder = locate(name)
        yield Stored(name, "bundled", folder, sum(file.stat().st_size for file in folder.iterdir()))


def _listed(
    find: Callable[[], Iterator[Stored]], preferred_dtype: str, free: int, device: str
) -> Iterator[Listed]:
    for stored in find():
        path = stored.path
        known = Listed(
            name=stored.name, store=stored.store, path=str(path) if path else None, disk_bytes=stored.nbytes
        )
        if path is None:
            yield replace(known, problem="its weights are missing")
            continue
        try:
            found = read_contents(path)
            how = fit(found.shape, found.longest, found.stored, preferred_dtype, found.memory, free, device)
        except ModelError as error:
            yield replace(known, problem=_unreadable(path, error.message))
            continue
        except (OSError, ValueError, ArithmeticError, RecursionError) as error:  # files from elsewhere
            cause = getattr(error, "strerror", None) or str(error)
            yield replace(known, problem=_unreadable(path, " ".join(cause.split())[:200]))
            continue
        yield replace(
            known,
            weights=found.weights,
            memory_bytes=how.weight_bytes,
            context=how.context,
            fits=how.verdict,
        )


def _unreadable(path: Path, cause: str) -> str:
    """Why, without the path of the folder or file: the model is named already."""
    for known in (f"{path / 'config.json'}: ", f"{path}: "):
        cause = cause.removeprefix(known)
    return f"cannot be read: {cause.replace(str(path), path.name)}"
