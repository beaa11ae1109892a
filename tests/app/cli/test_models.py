"""`mull models` in a home with other programs' stores: the real command, real files."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli import Home, one_line
from fake_stores import put_in_cache, put_in_lm_studio, put_in_ollama
from gguf_files import write_gguf
from random_checkpoint import VOCABULARY, save_checkpoint
from safetensors.torch import load_file

QUESTION = ("--max-tokens", "4", "hello")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    home.environment["HOME"] = str(home.folder)
    home.environment.pop("OLLAMA_MODELS", None)
    home.environment.pop("HF_HUB_CACHE", None)
    yield home
    home.close()


@pytest.fixture(scope="module")
def stored(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in every store; returns the one that is in all of them, quantized."""
    folder = save_checkpoint(tmp_path_factory.mktemp("model"), "qwen3")
    small = write_gguf(folder, folder.parent / "small-Q8_0.gguf", "Q8_0")
    cut = folder.parent / "cut.gguf"
    cut.write_bytes(small.read_bytes()[:-1000])
    hub = home.folder / "huggingface" / "hub"
    put_in_cache(hub, "owner/plain", *folder.iterdir())
    put_in_cache(hub, "owner/files", small, cut)
    put_in_lm_studio(home.folder / ".lmstudio" / "models", "maker/small-GGUF", small)
    put_in_ollama(home.folder / ".ollama" / "models", "small:latest", small)
    put_in_ollama(home.folder / ".ollama" / "models", "lost:latest", None)
    return small


def listed(home: Home) -> dict[str, dict[str, Any]]:
    done = home.run("models", "--json")
    assert done.returncode == 0, done.stderr
    return {model["name"]: model for model in json.loads(done.stdout)}


def test_all_stores_are_listed_with_size_and_fit(home: Home, stored: Path) -> None:
    found = listed(home)
    small = stored.stat().st_size
    assert {"tiny", "owner/plain", "lmstudio:maker/small-GGUF", "ollama:small:latest"} <= found.keys()
    assert found["tiny"]["fits"] == "fits" and found["tiny"]["store"] == "bundled"
    for name in ("lmstudio:maker/small-GGUF", "ollama:small:latest", "owner/files/small-Q8_0.gguf"):
        model = found[name]
        assert model["disk_bytes"] == small and model["weights"] == "gguf Q8_0"
        assert model["fits"] == "fits" and model["context"] == 1024
    assert found["owner/plain"]["weights"] == "f32"
    assert (
        found["owner/files/cut.gguf"]["fits"] is None
        and "truncated" in found["owner/files/cut.gguf"]["problem"]
    )
    assert "missing" in found["ollama:lost:latest"]["problem"]


def test_every_name_in_the_list_is_a_name_for_a_model(home: Home, stored: Path) -> None:
    answers = {}
    for name, model in listed(home).items():
        if model["weights"] == "gguf Q8_0":
            answer = home.ask("--model", name, *QUESTION)
            assert answer["model"] == name
            assert answer["receipt"]["memory"]["weights"]["value"] == pytest.approx(
                model["memory_bytes"], rel=0.02
            )
            answers[name] = answer["answer"]
    assert len(answers) == 3 and len(set(answers.values())) == 1


def test_people_read_a_table_and_what_is_wrong_below_it(home: Home, stored: Path) -> None:
    done = home.run("models")
    assert done.returncode == 0
    rows = {line.split("  ")[-1]: line for line in done.stdout.splitlines()}
    assert "gguf Q8_0" in rows["ollama:small:latest"] and "fits" in rows["ollama:small:latest"]
    assert "unreadable" in rows["owner/files/cut.gguf"]
    assert "owner/files/cut.gguf: cannot be read: cut.gguf is truncated" in done.stdout
    assert "free on cpu" in done.stdout


def test_the_list_loads_neither_torch_nor_transformers(home: Home, stored: Path) -> None:
    home.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    try:
        imported = home.run("models").stderr
    finally:
        del home.environment["PYTHONPROFILEIMPORTTIME"]
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert "click" in names and not names & {"torch", "transformers", "numpy"}


def test_a_model_larger_than_the_memory_does_not_fit(home: Home, stored: Path) -> None:
    folder = save_checkpoint(home.folder / ".lmstudio" / "models" / "maker" / "huge", "qwen3")
    vocabulary, header, end = 2**34, dict[str, Any](), 0
    for name, tensor in load_file(folder / "model.safetensors").items():
        shape = [vocabulary if size == VOCABULARY else size for size in tensor.shape]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * math.prod(shape)]}
        end += 2 * math.prod(shape)
    data = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)  # a hole: nothing is on the disk
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
    try:
        model = listed(home)["lmstudio:maker/huge"]
        assert model["fits"] == "no" and model["context"] == 0 and model["memory_bytes"] == end
        done = home.run("ask", "--model", "lmstudio:maker/huge", *QUESTION)
        assert "GB for its weights" in one_line(done, 3), "the loader says the same"
    finally:
        shutil.rmtree(folder)


def test_only_repositories_of_the_cache_can_be_removed(home: Home, stored: Path) -> None:
    refusals = {
        "tiny": "part of mull",
        "ollama:small:latest": "ollama rm small:latest",
        "lmstudio:maker/small-GGUF": "LM Studio",
        "owner/absent": "not a repository in the Hugging Face cache",
        "../plain": "not a repository",
    }
    for name, mention in refusals.items():
        assert mention in one_line(home.run("models", "rm", "--yes", name), 1)
    assert "--yes" in one_line(home.run("models", "rm", "owner/plain"), 2)
    assert "owner/plain" in listed(home)
    done = home.run("models", "rm", "--yes", "owner/plain")
    assert done.returncode == 0 and "removed owner/plain" in done.stdout
    assert "owner/plain" not in listed(home) and "owner/files/small-Q8_0.gguf" in listed(home)
    assert not list((home.folder / "huggingface" / "hub").glob("models--owner--plain"))


@pytest.mark.parametrize("error", ["PermissionError(13, 'Permission denied')", "OSError(30, 'Read-only')"])
def test_what_the_disk_does_not_let_go_of_is_said_in_one_line(home: Home, stored: Path, error: str) -> None:
    snapshot = put_in_cache(home.folder / "huggingface" / "hub", "owner/stays", stored)
    tampered = home.folder / "tampered"
    tampered.mkdir()
    (tampered / "sitecustomize.py").write_text(
        f"import shutil\ndef rmtree(*_, **__): raise {error}\nshutil.rmtree = rmtree\n"
    )
    home.environment["PYTHONPATH"] = str(tampered)
    try:
        done = home.run("models", "rm", "--yes", "owner/stays")
        assert "owner/stays could not be removed" in one_line(done, 1) and not done.stdout
        assert list(snapshot.iterdir()), "it is true"
    finally:
        del home.environment["PYTHONPATH"]
        shutil.rmtree(tampered)
        shutil.rmtree(snapshot.parents[1])
