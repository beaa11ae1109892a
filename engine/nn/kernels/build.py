"""The kernels of the C files beside it, compiled at first use by the system's compiler. Knows no torch.

A library's name in the user's cache folder says what it was built from and what is in it, so that one of
another version, machine or compiler is never loaded, nor one that was damaged.

`python -m engine.nn.kernels.build` says in JSON whether there are kernels, and if not why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import platformdirs

SOURCES = tuple(
    Path(__file__).with_name(f"{name}.c") for name in ("attention", "cpu", "draw", "round", "threads")
)
HEADERS = tuple(Path(__file__).with_name(f"{name}.h") for name in ("threads", "vectors"))
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-ffp-contract=off")
LIBRARIES = ("-lm",)
TIME_LIMIT_S = 120.0
"""A compiler that takes longer is ended; it takes about 5 s."""
SWITCH = "MULL_KERNELS"
"""The environment variable that turns the kernels off."""
INSTRUCTION_SETS = ("plain", "avx2", "avx512", "neon")
"""As vectors.h numbers them."""

_log = logging.getLogger(__name__)
_loading = threading.Lock()


class NoKernels(Exception):
    """There are none: why, and what to do about it."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")


@dataclass(frozen=True)
class Kernels:
    """A library in this process, and the best of its instruction sets that this processor has."""

    library: ctypes.CDLL
    path: Path
    instruction_set: str


def kernels() -> Kernels | None:
    """This process's, built by the first who asks; None where there are none, which is logged."""
    with _loading:
        return _found()


@functools.cache
def _found() -> Kernels | None:
    try:
        return load()
    except NoKernels as none:
        _log.warning("no kernels, torch's operators are used: %s", none)
        return None


def load() -> Kernels:
    """Out of the cache folder, else built into it. Raises NoKernels."""
    if os.environ.get(SWITCH) == "off":
        raise NoKernels(f"{SWITCH} is off", f"unset {SWITCH}")
    if os.name != "posix":
        raise NoKernels("they are not written for this system", "torch's operators do the work")
    compiler = _compiler()
    name = _name(compiler)
    folder = _folder()
    for path in folder.glob(f"{name}-*.so"):
        try:
            if path.stem.removeprefix(f"{name}-") == _digest(path.read_bytes()):
                return _loaded(path)
        except OSError:
            pass  # built anew below
        path.unlink(missing_ok=True)
    path = _build(compiler, name, folder)
    try:
        return _loaded(path)
    except OSError as error:
        raise NoKernels(
            f"{path} cannot be loaded: {error}", "set XDG_CACHE_HOME to a folder that programs may run from"
        ) from error


def _loaded(path: Path) -> Kernels:
    library = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    library.mull_product.argtypes = (
        *(pointer, pointer, pointer, ctypes.c_int64),
        *(pointer, pointer, ctypes.c_int64),
        *(ctypes.c_int, ctypes.c_int),
    )
    library.mull_product.restype = None
    library.mull_search.argtypes = (
        *(pointer, pointer, ctypes.c_int64, ctypes.c_int64),
        *(ctypes.c_int, pointer, ctypes.c_int64, pointer),
    )
    library.mull_search.restype = None
    library.mull_attend.argtypes = (
        *(pointer, pointer, ctypes.c_int64, pointer, ctypes.c_int64, pointer),
        *(ctypes.c_float, ctypes.c_int64, ctypes.c_int, ctypes.c_int),
    )
    library.mull_attend.restype = None
    library.mull_draw.argtypes = (
        *(pointer, pointer, ctypes.c_int64, ctypes.c_int64),
        *(ctypes.c_uint64, ctypes.c_uint64),
    )
    library.mull_draw.restype = ctypes.c_int64
    has = [name for number, name in enumerate(INSTRUCTION_SETS) if library.mull_has(number)]
    return Kernels(library, path, has[-1])


def _compiler() -> list[str]:
    """The command; CC may hold arguments too."""
    try:
        wanted = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise NoKernels(f"CC is no command: {str(error).lower()}", "correct or unset CC") from error
    found = next(filter(None, map(shutil.which, [wanted[0]] if wanted else ["cc", "gcc", "clang"])), None)
    if wanted and found is None:
        raise NoKernels(f"CC names {wanted[0]}, which is not there", "correct or unset CC")
    if found and sys.platform == "darwin" and Path(found).parent == Path("/usr/bin"):
        # what lies there asks to install the real one, which must not happen unasked
        tools = subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True, check=False)
        found = None if tools.returncode else found
    if found is None:
        raise NoKernels("there is no C compiler (cc, gcc or clang)", _how_to_install())
    return [found, *wanted[1:]]


def _how_to_install() -> str:
    if sys.platform == "darwin":
        return "install one: xcode-select --install"
    return "install one: on Debian or Ubuntu apt install gcc libc6-dev, on Fedora dnf install gcc"


def _name(compiler: list[str]) -> str:
    """Of what a library is built from. A compiler is known by its file: to ask it takes time."""
    file = Path(compiler[0]).resolve()
    known = (str(file), file.stat().st_size, file.stat().st_mtime_ns)
    facts = (compiler, FLAGS, LIBRARIES, known, platform.system(), platform.machine())
    return _digest(b"".join(source.read_bytes() for source in (*SOURCES, *HEADERS)) + repr(facts).encode())


def _folder() -> Path:
    """In the user's cache, open to nobody else: what lies there is run."""
    folder = platformdirs.user_cache_path("mull") / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise NoKernels(
            f"{folder} cannot be made: {error.strerror}", "set XDG_CACHE_HOME to a folder of yours"
        ) from error
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NoKernels(f"{folder} can be written to by others", f"run: chmod 700 {folder}")
    return folder


def _build(compiler: list[str], name: str, folder: Path) -> Path:
    """Whole or not at all: another process may be doing the same."""
    try:
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise NoKernels(
            f"{folder} cannot be written to: {error.strerror}", "make it writable, or set XDG_CACHE_HOME"
        ) from error
    built = Path(temporary)
    try:
        _compile([*compiler, *FLAGS, "-o", temporary, *map(str, SOURCES), *LIBRARIES])
        return built.rename(folder / f"{name}-{_digest(built.read_bytes())}.so")
    finally:
        built.unlink(missing_ok=True)


def _compile(command: list[str]) -> None:
    fix = "mend it, or set CC to another compiler"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT_S,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NoKernels(f"{command[0]} did not end within {TIME_LIMIT_S:.0f} s", fix) from error
    except OSError as error:
        raise NoKernels(f"{command[0]} does not run: {error.strerror}", fix) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[0] if lines else "without a word")
        raise NoKernels(f"{command[0]} failed: {said}", fix)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def main() -> None:
    used = None
    try:
        kernels = load()
        used, text = kernels.instruction_set, f"{kernels.instruction_set}, {kernels.path}"
    except NoKernels as none:
        text = str(none)
    print(json.dumps({"kernels": used, "text": text}))


if __name__ == "__main__":
    main()
