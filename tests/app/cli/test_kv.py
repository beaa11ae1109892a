"""How keys and values are kept, from the command line to the receipt: the real command, the real engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import Home, one_line
from random_checkpoint import save_checkpoint

QUESTION = "What is 48 + 26?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


def test_int8_takes_less_memory_and_the_receipt_says_so(home: Home) -> None:
    plain, small = home.ask(QUESTION), home.ask("--kv", "int8", QUESTION)
    assert plain["receipt"]["environment"]["kv_dtype"] == plain["receipt"]["environment"]["weight_dtype"]
    assert small["receipt"]["environment"]["kv_dtype"] == "int8"
    assert small["receipt"]["environment"]["kernel_class"] != plain["receipt"]["environment"]["kernel_class"]
    assert small["answer"] == plain["answer"]
    used = [answer["receipt"]["memory"]["kv_used"]["value"] for answer in (plain, small)]
    assert used[1] == used[0] * (32 + 4) / (4 * 32), "int8 and a scale for each head, in place of float32"
    assert "KV int8" in home.run("ps").stdout


def test_the_settings_have_it_too(home: Home) -> None:
    home.environment["MULL_KV"] = "int8"
    try:
        assert home.ask(QUESTION)["receipt"]["environment"]["kv_dtype"] == "int8"
        assert home.ask("--kv", "model", QUESTION)["receipt"]["environment"]["kv_dtype"] != "int8"
    finally:
        del home.environment["MULL_KV"]


def test_what_it_may_be_is_said_in_one_line(home: Home) -> None:
    done = home.run("ask", "--kv", "int4", QUESTION)
    assert "model or int8" in one_line(done, 2)


def test_a_family_that_cannot_page_answers_and_says_by_what_path(home: Home, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "lfm2")
    asked = ("--model", str(folder), "--max-tokens", "12", "hello")
    first, second = home.ask(*asked)["receipt"], home.ask(*asked)["receipt"]
    assert "stock-cache" in first["environment"]["kernel_class"]
    assert first["environment"]["architecture"] == "Lfm2ForCausalLM"
    assert first["memory"]["kv_used"]["value"] > 0 and first["compute"]["flops"]["total"]["value"] > 0
    assert second["tokens"]["cached"] == 0, "nothing is kept"
    told = one_line(home.run("ask", "--kv", "int8", *asked), 1)
    assert "int8" in told and "transformers' own cache" in told
