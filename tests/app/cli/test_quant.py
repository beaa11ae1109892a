"""In what weights are kept, from the command line to the receipt: the real command, the real engine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import Home, one_line
from random_checkpoint import save_tokenizer

QUESTION = "What is 48 + 26?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.close()


def test_int4_takes_less_memory_and_receipt_ps_and_doctor_say_what_was_done(home: Home) -> None:
    plain, few = home.ask(QUESTION), home.ask("--quant", "int4", QUESTION)
    environments = [answer["receipt"]["environment"] for answer in (plain, few)]
    assert (environments[0]["weight_dtype"], environments[0]["quantization"]) == ("fp32", None)
    assert environments[1]["weight_dtype"] == "int4"
    assert environments[1]["quantization"].startswith(
        "int4 (as asked for): 1 × s8-g32, 16 × u4-g32, 12 × u4-g64"
    )
    assert few["answer"] == plain["answer"] == "74"
    held = [answer["receipt"]["memory"]["weights"]["value"] for answer in (plain, few)]
    assert held[1] < 0.16 * held[0], "4 bits and a head of 8, in place of 32"
    moved = [answer["receipt"]["compute"]["bytes"]["value"] for answer in (plain, few)]
    assert moved[1] < 0.5 * moved[0], "fewer bytes are read"
    assert environments[1]["quantization"] in home.run("ps").stdout
    assert "1 model" in next(line for line in home.run("doctor").stdout.splitlines() if "quantized" in line)


def test_a_new_engine_takes_what_the_last_one_quantized(home: Home) -> None:
    first = home.ask("--quant", "int8", "--temperature", "1", "--seed", "3", QUESTION)
    home.run("stop")
    again = home.start("ask", "--quant", "int8", "--temperature", "1", "--seed", "3", "--json", QUESTION)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and first["answer"] in out
    log = (home.folder / "state" / "mull" / "engine.log").read_text()
    assert "not used" not in log and "Traceback" not in log


def test_settings_and_a_profile_of_ones_own_have_it_too(home: Home) -> None:
    home.environment["MULL_QUANT"] = "int8,embed_tokens=none"
    try:
        assert home.ask(QUESTION)["receipt"]["environment"]["weight_dtype"] == "int8,embed_tokens=none"
    finally:
        del home.environment["MULL_QUANT"]
    profiles = home.folder / "config" / "mull" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "mine.toml").write_text(
        '[[profile]]\nid = "mine"\nname = "Mine"\nvendor = "me"\nkind = "cpu"\n'
        'source = "a test"\nquant = "fp8"\n'
    )
    found = home.ask("--profile", "mine", QUESTION)["receipt"]["environment"]
    assert found["weight_dtype"] == "fp8" and "as the profile mine says" in found["quantization"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("int3", "int8, int4, fp8 or auto"),
        ("int4,down_proj", "PATTERN=KIND"),
        ("int4,x=int2", "PATTERN=KIND"),
    ],
)
def test_what_it_may_be_is_said_in_one_line(home: Home, asked: str, said: str) -> None:
    assert said in one_line(home.run("ask", "--quant", asked, QUESTION), 2)


def test_a_checkpoint_that_is_quantized_is_not_quantized_again(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(Path(__file__).parents[2] / "fixtures" / "gptq" / "g64sym", folder)
    save_tokenizer(folder)
    told = one_line(home.run("ask", "--model", str(folder), "--quant", "int8", "hello"), 1)
    assert "quantized already" in told and "--quant" in told
