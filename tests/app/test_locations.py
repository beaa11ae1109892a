"""Paths follow XDG, and the runtime directory is private and short enough for a socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from app import locations
from app.errors import CommandError


def test_every_place_is_below_the_user_s_own_folders(home: Path) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"])
    assert locations.config_file() == home / "config" / "mull" / "config.toml"
    assert locations.profiles_directory() == home / "config" / "mull" / "profiles"
    assert locations.sessions_directory() == home / "data" / "mull" / "sessions"
    assert locations.prompts_directory() == cache / "mull" / "prompts"
    assert locations.quantized_directory() == cache / "mull" / "quantized"
    assert locations.state_file() == home / "state" / "mull" / "state.json"
    assert locations.engine_log() == home / "state" / "mull" / "engine.log"


def test_the_runtime_directory_is_made_for_its_user_alone() -> None:
    assert locations.runtime_directory().stat().st_mode & 0o777 == 0o700


def test_a_runtime_directory_that_others_can_enter_is_refused() -> None:
    locations.runtime_directory().chmod(0o755)
    with pytest.raises(CommandError, match="is open to others; run: chmod 700"):
        locations.runtime_directory()


def test_a_runtime_directory_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "mull").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(locations, "_runtime_path", lambda: tmp_path / "mull")
    with pytest.raises(CommandError, match="is not yours; set XDG_RUNTIME_DIR"):
        locations.runtime_directory()


def test_a_long_or_missing_runtime_directory_gives_way_to_one_that_a_socket_fits_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("deep" * 40)))
    places = set()
    for name in ("one", "two"):
        long = tmp_path / ("x" * 100) / name
        long.mkdir(parents=True, mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        place = locations.engine_socket()
        places.add(place)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
        place.unlink()
        place.parent.rmdir()
    assert len(places) == 2
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert len(str(locations._runtime_path())) < 60
