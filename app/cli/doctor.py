"""`mull doctor`: what a person needs to know when something is wrong. Looks, and mends nothing."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import click
import msgspec
from msgspec import Struct

from app import config, figures, locations
from app.cli.engine import open_engine
from app.cli.output import show, show_json
from app.errors import CommandError
from app.sanitise import clean_line
from engine.build import build_id, mull_version
from engine.client import EngineGone
from engine.page_files import PageFolder, held
from engine.protocol import EngineStatus, IgnoredFiles
from engine.quantized_folder import QuantizedFolder
from profiles.catalogue import UnknownProfile
from profiles.detect import Detection, detect

State = Literal["ok", "note", "problem"]
LITTLE_SPACE = 10**9
"""Bytes below which a disk is nearly full: conversations are small, downloads and prompts are not."""
KERNELS_LIMIT_S = 180
"""They are built within this, in about 5 s on most machines."""
COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


class Check(Struct, frozen=True):
    """One thing that was looked at. A problem keeps mull from working; a note does not."""

    id: str
    state: State
    text: str


class Kernels(Struct, frozen=True):
    """Of quantized matrices, on the processor: their instruction set, None where there are none."""

    kernels: str | None
    text: str


class StoredPrompts(Struct, frozen=True, kw_only=True):
    """What prompts take on disk. `ignored` is what a running engine says of files; None: none runs."""

    folder: str
    pages: int
    bytes: int
    budget_bytes: int
    strangers: tuple[str, ...]
    """Files in the folder that are not the store's, and are left alone."""
    ignored: tuple[IgnoredFiles, ...] | None


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What `mull doctor --json` prints."""

    schema: Literal["mull.doctor/1"] = "mull.doctor/1"
    usable: bool
    checks: tuple[Check, ...]
    prompt_store: StoredPrompts


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what mull finds here: versions, hardware, engine, folders, terminal, and what is wrong.

    The exit status is 1 where something keeps mull from working.
    """
    diagnosis = _diagnosis()
    if as_json:
        show_json(diagnosis)
    else:
        width = max(len(check.id) for check in diagnosis.checks)
        show("\n".join(_line(check, width) for check in diagnosis.checks))
    ctx.exit(0 if diagnosis.usable else 1)


def _line(check: Check, width: int) -> str:
    mark = f"{check.state:7}"
    if sys.stdout.isatty():
        mark = click.style(mark, fg=COLORS[check.state])
    return f"{mark}  {check.id:{width}}  {clean_line(check.text)}"


def _diagnosis() -> Diagnosis:
    checks = list(_versions())
    settings = config.Settings()
    try:
        configuration = config.load()
        settings = configuration.settings
        checks.append(Check("settings", "ok", _file(locations.config_file())))
        checks += [Check("settings", "note", warning) for warning in configuration.warnings]
    except CommandError as error:
        checks.append(Check("settings", "problem", str(error)))
    checks += [*_hardware(settings), _kernels()]
    status, engine = _engine()
    checks += [engine, Check("engine log", "ok", _file(locations.engine_log()))]
    stored = _stored_prompts(settings, status)
    checks += [*_prompt_store(stored), _quantized_store(settings), *_folders(), *_terminal()]
    usable = all(check.state != "problem" for check in checks)
    return Diagnosis(usable=usable, checks=tuple(checks), prompt_store=stored)


def _versions() -> Iterator[Check]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Check("mull", "ok", f"{mull_version()}, Python {platform.python_version()}, {system}")
    for name in ("torch", "transformers"):
        found = _version(name)
        if found is None:
            yield Check(name, "problem", "is not installed; install mull again with its dependencies")
        else:
            yield Check(name, "ok", found)


def _version(package: str) -> str | None:
    """Without importing the package, which may take seconds."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware(settings: config.Settings) -> Iterator[Check]:
    try:
        found = detect(
            settings.profile, device=settings.device or "auto", user_dir=locations.profiles_directory()
        )
    except UnknownProfile as error:
        yield Check("hardware", "problem", f"{error}; see: mull profiles")
        return
    except ValueError as error:
        yield Check("hardware", "problem", str(error))
        return
    cpu = found.cpu
    yield Check(
        "processor", "ok", f"{cpu.name}, {cpu.cores} cores, {figures.size(cpu.memory_bytes)} of memory"
    )
    yield _gpu(found)
    yield Check("profile", "ok", f"{found.label}; {found.settings.dtype} on {found.settings.device}")
    for reason in found.reasons:
        yield Check("profile", "note", reason)


def _gpu(found: Detection) -> Check:
    gpu = found.gpu
    if gpu is None:
        return Check("gpu", "ok", "none is used")
    memory = figures.size(gpu.memory_bytes) if gpu.memory_bytes else figures.UNKNOWN
    text = f"{gpu.name}, {memory}, driver {gpu.driver or figures.UNKNOWN}"
    if (_version("torch") or "").endswith("+cpu"):
        return Check("gpu", "note", f"{text}; this torch cannot use it: install torch's CUDA build")
    return Check("gpu", "ok", text)


def _kernels() -> Check:
    """A process of its own tries, as the engine would: they are built where they are not yet."""
    try:
        done = subprocess.run(
            # -P: a folder named `engine` in the working directory must not be run for ours
            [sys.executable, "-P", "-m", "engine.nn.kernels.build"],
            capture_output=True,
            timeout=KERNELS_LIMIT_S,
        )
        found = msgspec.json.decode(done.stdout, type=Kernels)
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError):
        return Check(
            "kernels", "problem", "looking for them failed; run: python -P -m engine.nn.kernels.build"
        )
    if found.kernels is None:
        return Check("kernels", "note", f"torch's own operators do without, slower: {found.text}")
    return Check("kernels", "ok", found.text)


def _engine() -> tuple[EngineStatus | None, Check]:
    async def ask() -> EngineStatus | None:
        engine = open_engine()
        try:
            return await engine.status()
        finally:
            await engine.close()

    try:
        status = asyncio.run(ask())
    except (CommandError, EngineGone) as error:
        return None, Check("engine", "problem", str(error))
    if status is None:
        return None, Check("engine", "ok", "not running; the next question starts it")
    model = f"{status.model.name} on {status.model.device}" if status.model else "no model"
    text = (
        f"process {status.pid}, up {figures.seconds(status.uptime_s)}, {model}, "
        f"{status.answering} answering, {status.queued} waiting"
    )
    if status.build != build_id():
        return status, Check("engine", "note", f"{text}; of another version, the next question replaces it")
    return status, Check("engine", "ok", text)


def _stored_prompts(settings: config.Settings, status: EngineStatus | None) -> StoredPrompts:
    """A running engine knows its own folder and budget; the rest is read from names and sizes."""
    told = status.prompt_store if status is not None else None
    folder = PageFolder(locations.prompts_directory(), settings.prompt_store)
    path = Path(told.folder) if told is not None else folder.path
    found = held(path)
    return StoredPrompts(
        folder=str(path),
        pages=len(found.pages),
        bytes=found.bytes,
        budget_bytes=told.budget_bytes if told is not None else folder.limit(),
        strangers=tuple(str(stranger) for stranger in found.strangers),
        ignored=told.ignored if told is not None else None,
    )


def _prompt_store(stored: StoredPrompts) -> Iterator[Check]:
    if not stored.budget_bytes:
        yield Check("prompt store", "ok", f"off (prompt_store); {stored.pages} pages in {stored.folder}")
    else:
        taken, budget = figures.size(stored.bytes), figures.size(stored.budget_bytes)
        yield Check("prompt store", "ok", f"{stored.pages} pages, {taken} of {budget}, in {stored.folder}")
    for ignored in stored.ignored or ():
        yield Check("prompt store", "note", f"files ignored: {ignored.files}, {ignored.reason}")
    if stored.strangers:
        others = f" and {len(stored.strangers) - 1} more" if len(stored.strangers) > 1 else ""
        yield Check("prompt store", "note", f"not the store's, left alone: {stored.strangers[0]}{others}")


def _quantized_store(settings: config.Settings) -> Check:
    folder = QuantizedFolder(locations.quantized_directory(), settings.quantized_store)
    kept, budget = folder.kept(), folder.limit()
    if not budget:
        return Check("quantized", "ok", f"off (quantized_store); {len(kept)} models in {folder.path}")
    taken = figures.size(sum(one.bytes for one in kept))
    models = "1 model" if len(kept) == 1 else f"{len(kept)} models"
    return Check("quantized", "ok", f"{models}, {taken} of {figures.size(budget)}, in {folder.path}")


def _folders() -> Iterator[Check]:
    try:
        yield Check("runtime", "ok", str(locations.runtime_directory()))
    except CommandError as error:
        yield Check("runtime", "problem", str(error))
    for name, folder in (
        ("sessions", locations.sessions_directory()),
        ("state", locations.state_directory()),
        ("prompts", locations.prompts_directory()),
    ):
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            state: State = "note" if name == "prompts" else "problem"
            yield Check(name, state, f"{folder}: {existing} cannot be written to")
        elif (free := shutil.disk_usage(existing).free) < LITTLE_SPACE:
            yield Check(name, "note", f"{folder}: only {figures.size(free)} are free on its disk")
        else:
            yield Check(name, "ok", f"{folder}, {figures.size(free)} free")


def _terminal() -> Iterator[Check]:
    term = os.environ.get("TERM", "")
    facts = [f"TERM={term}", sys.stdout.encoding]
    facts += [f"{name}={os.environ[name]}" for name in ("COLORTERM", "NO_COLOR") if name in os.environ]
    if sys.stdout.isatty():
        columns, rows = shutil.get_terminal_size()
        facts.append(f"{columns} × {rows}")
    else:
        facts.append("this output is none")
    yield Check("terminal", "ok", ", ".join(facts))
    if term in ("", "dumb"):
        yield Check("terminal", "note", "it cannot show the chat; mull ask works")
    if sys.stdout.encoding.lower().replace("-", "") != "utf8":
        yield Check("terminal", "note", "it is not set to UTF-8: some characters are replaced")


def _file(path: Path) -> str:
    return f"{path}, {figures.size(path.stat().st_size)}" if path.is_file() else f"{path}, not there yet"
