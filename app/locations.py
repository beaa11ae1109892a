"""Where mull's files live: the only code that knows a path. Honors XDG_*; creates only what it must check."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from app.errors import CommandError, reason

APP = "mull"
SOCKET_PATH_LIMIT = 103
"""Bytes of a Unix socket's path: sockaddr_un holds 104 on macOS and 108 on Linux, with the final zero."""
SOCKET_NAME_ROOM = 32
"""Bytes kept free for a socket's name and its slash."""


def config_directory() -> Path:
    """Where the user's own settings live."""
    return platformdirs.user_config_path(APP)


def config_file() -> Path:
    """The user's settings."""
    return config_directory() / "config.toml"


def profiles_directory() -> Path:
    """The user's own hardware profiles, beside the catalogue's."""
    return config_directory() / "profiles"


def data_directory() -> Path:
    """Where what must be kept lives."""
    return platformdirs.user_data_path(APP)


def sessions_directory() -> Path:
    """The journals of all conversations."""
    return data_directory() / "sessions"


def bench_directory() -> Path:
    """The answers of benches, to go on from."""
    return data_directory() / "bench"


def calibrations_directory() -> Path:
    """What calibration found of each model."""
    return data_directory() / "calibration"


def prompts_directory() -> Path:
    """What prompts were computed to, kept for the next time; may be lost, and takes much room."""
    return platformdirs.user_cache_path(APP) / "prompts"


def quantized_directory() -> Path:
    """Weights that were quantized as they were loaded, kept for the next time; may be lost."""
    return platformdirs.user_cache_path(APP) / "quantized"


def state_directory() -> Path:
    """Where what may be lost lives: logs and remembered choices."""
    return platformdirs.user_state_path(APP)


def state_file() -> Path:
    """The choices remembered from the last time."""
    return state_directory() / "state.json"


def engine_log() -> Path:
    """What the resident engine and the libraries under it have to say."""
    return state_directory() / "engine.log"


def engine_socket() -> Path:
    """Where the resident engine listens."""
    return runtime_directory() / "engine.sock"


def runtime_directory() -> Path:
    """The directory of the engine's socket, private to this user (0700); CommandError where it is not."""
    directory = _runtime_path()
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise CommandError(
            f"cannot use the runtime directory {directory}: {reason(error)}", "set XDG_RUNTIME_DIR"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise CommandError(f"the runtime directory {directory} is not yours", "set XDG_RUNTIME_DIR")
    if stat.S_IMODE(found.st_mode) != 0o700:
        raise CommandError(
            f"the runtime directory {directory} is open to others", f"run: chmod 700 {directory}"
        )
    return directory


def _runtime_path() -> Path:
    """In XDG_RUNTIME_DIR where that is short enough for a socket, else in the temporary directory."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    wanted = Path(base) / APP
    if Path(base).is_absolute() and Path(base).is_dir():
        if len(os.fsencode(wanted)) + SOCKET_NAME_ROOM <= SOCKET_PATH_LIMIT:
            return wanted
        # Two long paths must not meet in one short directory.
        name = f"{APP}-{os.getuid()}-{hashlib.blake2b(os.fsencode(wanted), digest_size=4).hexdigest()}"
    else:
        name = f"{APP}-{os.getuid()}"
    temporary = Path(tempfile.gettempdir()) / name
    too_long = len(os.fsencode(temporary)) + SOCKET_NAME_ROOM > SOCKET_PATH_LIMIT
    return Path("/tmp") / name if too_long else temporary
