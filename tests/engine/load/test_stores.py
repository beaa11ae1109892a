"""Models in other programs' stores are found by name, and their stores stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_stores import put_in_cache, put_in_lm_studio, put_in_ollama

from engine.load.errors import ModelError
from engine.load.locate import locate, shown_name
from engine.load.stores import lmstudio_models, ollama_models


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which other programs live."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Nothing here looks into it."""
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_ollamas_models_are_found_by_the_names_that_it_has_for_them(user: Path, model: Path) -> None:
    store = user / ".ollama" / "models"
    blob = put_in_ollama(store, "qwen3:0.6b", model)
    put_in_ollama(store, "qwen3:latest", model)
    put_in_ollama(store, "tuned:v1", model, owner="someone")
    assert [found.name for found in ollama_models() if blob == found.path] == [
        "ollama:qwen3:0.6b",
        "ollama:qwen3:latest",
        "ollama:someone/tuned:v1",
    ]
    for name in ("ollama:qwen3:0.6b", "ollama:qwen3", "ollama:someone/tuned:v1"):
        assert locate(name) == blob and shown_name(name, blob) == name


def test_ollamas_store_may_be_elsewhere(user: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(user / "other"))
    blob = put_in_ollama(user / "other", "qwen3:0.6b", model)
    assert locate("ollama:qwen3:0.6b") == blob


def test_a_store_that_cannot_be_seen_is_passed_over(
    user: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "~nobody-of-that-name/models")
    blob = put_in_ollama(user / ".ollama" / "models", "qwen3:0.6b", model)
    seen, hidden = Path.is_dir, Path("/usr/share/ollama/.ollama/models")

    def is_dir(path: Path) -> bool:
        if path == hidden:
            raise PermissionError(13, "Permission denied")  # what a home of mode 0700 gives to others
        return seen(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert locate("ollama:qwen3:0.6b") == blob


def test_a_blob_that_is_missing_or_a_manifest_that_leads_elsewhere_is_no_model(
    user: Path, model: Path
) -> None:
    store = user / ".ollama" / "models"
    put_in_ollama(store, "lost:latest", None)
    put_in_ollama(store, "evil:latest", model)
    put_in_ollama(store, "torn:latest", model)
    manifests = store / "manifests" / "registry.ollama.ai" / "library"
    evil = json.loads((manifests / "evil" / "latest").read_text())
    evil["layers"][1]["digest"] = "sha256:x/../../../../some.gguf"
    (store / "blobs" / "sha256-x").mkdir()
    (manifests / "evil" / "latest").write_text(json.dumps(evil))
    (manifests / "torn" / "latest").write_text("[1, 2")
    put_in_ollama(store, "nested:latest", model)
    (manifests / "nested" / "latest").write_text("[" * 200_000)
    for name in ("lost", "evil", "torn", "nested"):
        with pytest.raises(ModelError, match=f"ollama:{name} lacks its weights"):
            locate(f"ollama:{name}")
    with pytest.raises(ModelError, match="there is no ollama:absent"):
        locate("ollama:absent")


@pytest.mark.parametrize("place", [".lmstudio/models", ".cache/lm-studio/models"])
def test_lm_studios_models_are_found_by_publisher_and_model(user: Path, model: Path, place: str) -> None:
    folder = put_in_lm_studio(user / place, "maker/Small-GGUF", model)
    (folder / "mmproj-small.gguf").write_bytes(b"GGUF")  # what sees is no model
    for name in ("lmstudio:maker/Small-GGUF", "maker/Small-GGUF", "maker/Small-GGUF/some.gguf"):
        assert locate(name) == folder / model.name


def let(path: Path, hidden: Path) -> Path:
    """The path, but an error for the one that another user hides."""
    if path == hidden:
        raise PermissionError(13, "Permission denied")
    return path


def test_a_closed_folder_of_lm_studio_takes_no_other_model_down(
    user: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = user / ".lmstudio" / "models"
    folder = put_in_lm_studio(root, "maker/Open", model)
    closed, config = put_in_lm_studio(root, "maker/Closed", model), root / "maker" / "Half" / "config.json"
    put_in_lm_studio(root, "maker/Half")
    is_dir, is_file = Path.is_dir, Path.is_file
    monkeypatch.setattr(Path, "is_dir", lambda path: is_dir(let(path, closed)))
    monkeypatch.setattr(Path, "is_file", lambda path: is_file(let(path, config)))
    assert [found.name for found in lmstudio_models()] == ["lmstudio:maker/Half", "lmstudio:maker/Open"]
    assert locate("maker/Open") == folder / model.name
    with pytest.raises(ModelError, match="maker/Half cannot be read: Permission denied"):
        locate("lmstudio:maker/Half")


def test_where_there_are_several_files_one_has_to_be_named(user: Path, model: Path) -> None:
    other = model.rename(user / "a-Q8_0.gguf")
    model.write_bytes(b"GGUF")
    parts = [user / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    folder = put_in_lm_studio(user / ".lmstudio" / "models", "maker/Many", other, model, *parts)
    assert [found.name for found in lmstudio_models()] == [
        f"lmstudio:maker/Many/{name}" for name in ("a-Q8_0.gguf", "big-00001-of-00002.gguf", "some.gguf")
    ]
    snapshot = put_in_cache(user / "hub", "owner/name", other, model)
    for name in ("maker/Many", str(folder), "owner/name"):
        with pytest.raises(ModelError, match=r"has . GGUF models") as caught:
            locate(name)
        named = caught.value.hint.removeprefix("name one of them: ").split(", ")[0]
        assert locate(named).name == "a-Q8_0.gguf", "what is proposed works"
    assert locate("owner/name/some.gguf") == snapshot / "some.gguf"


def test_a_gguf_file_is_named_by_its_path_its_folder_or_its_repository(user: Path, model: Path) -> None:
    snapshot = put_in_cache(user / "hub", "owner/name", model)
    folder = put_in_lm_studio(user, "just/a-folder", model)
    assert locate(str(model)) == model and shown_name(str(model), model) == "some.gguf"
    assert locate(str(folder)) == folder / "some.gguf"
    assert locate("owner/name") == snapshot / "some.gguf"
    with pytest.raises(ModelError, match=r"has no other\.gguf"):
        locate("owner/name/other.gguf")
