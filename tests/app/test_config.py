"""Settings come from flags, variables, the file and the defaults, in this order; mistakes are named."""

from __future__ import annotations

import pytest

from app import config, locations
from app.errors import CommandError
from engine.protocol import ModelSpec, Sampling


def write(text: str) -> None:
    path = locations.config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write('model = "file"\nthink = 64\nseed = 1\nthreads = 2\n')
    monkeypatch.setenv("MULL_THINK", "128")
    monkeypatch.setenv("MULL_SEED", "2")
    loaded = config.load({"seed": 3, "model": None})
    settings = loaded.settings
    assert (settings.seed, settings.think, settings.model, settings.context) == (3, 128, "file", None)
    assert [loaded.origins[key] for key in ("seed", "think", "model", "context")] == [
        "flag",
        "MULL_THINK",
        "config.toml",
        "default",
    ]
    assert settings.spec() == ModelSpec(model="file", threads=2)
    assert settings.sampling() == Sampling(seed=3)


def test_every_setting_can_be_set_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "model": "m", "profile": "p", "device": "cpu", "threads": 2, "context": 512, "think": "off",
        "method": "cot", "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "max_tokens": 99,
        "keep_alive": 90.0, "prompt_store": 5000, "offline": True, "theme": "dark", "show_thinking": "full",
    }  # fmt: skip
    for key, value in values.items():
        monkeypatch.setenv(f"MULL_{key.upper()}", "1.5m" if key == "keep_alive" else str(value))
    assert config.load().settings == config.Settings(**values)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("1.5h", 5400), ("0", 0), ("45", 45)]
)
def test_a_duration_may_have_a_unit(text: str, seconds: float) -> None:
    assert config.load({"keep_alive": text}).settings.keep_alive == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("64k", 64_000),
        ("2TB", 2 * 10**12), ("0", 0), ("off", 0), (0, 0), (12345, 12345), ("7b", 7),
    ],
)  # fmt: skip
def test_a_size_may_have_a_unit(text: object, count: int) -> None:
    assert config.load({"prompt_store": text}).settings.prompt_store == count


def test_an_unknown_key_warns_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    write("temprature = 0.5\nzzz = 1\n")
    monkeypatch.setenv("MULL_MODLE", "x")
    monkeypatch.setenv("MULL_KERNELS", "off")  # the engine's
    assert [warning.split(": ")[-1] for warning in config.load().warnings] == [
        "there is no setting 'temprature'; did you mean temperature?",
        "there is no setting 'zzz'",
        "there is no setting MULL_MODLE; did you mean MULL_MODEL?",
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("threads = 0", "threads is 0, but must be a whole number from 1 up"),
        ("threads = true", "threads is True, but must be a whole number"),
        ("think = -1", "think is -1, but must be off, max or a number of tokens"),
        ("think = 1.5", "think is 1.5, but must be off, max or a number of tokens"),
        ("top_p = 1.5", "top_p is 1.5, but must be a number from 0 to 1"),
        ("temperature = nan", "temperature is nan, but must be a number from 0 up"),
        ('keep_alive = "soon"', "keep_alive is 'soon', but must be a duration such as 30s"),
        ('show_thinking = "some"', "show_thinking is 'some', but must be hidden or line or full"),
        ('prompt_store = "much"', "prompt_store is 'much', but must be a size such as 500MB, 4GB or off"),
        ("prompt_store = -1", "prompt_store is -1, but must be a size"),
        ("prompt_store = true", "prompt_store is True, but must be a size"),
        ('prompt_store = "99999999999TB"', "prompt_store is '99999999999TB', but must be a size"),
        ('offline = "maybe"', "offline is 'maybe', but must be true or false"),
        ("model = 3", "model is 3, but must be a folder, a repository or a name"),
        ("seed = 99999999999999999999", "seed is 99999999999999999999, but must be a whole number"),
        ("model =", "config.toml is not valid TOML"),
    ],
)
def test_a_bad_value_is_one_line_naming_file_key_and_what_is_allowed(line: str, complaint: str) -> None:
    write(f"{line}\n")
    with pytest.raises(CommandError) as caught:
        config.load()
    assert complaint in str(caught.value) and "config.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_flag_is_a_usage_error_and_a_bad_variable_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="--max-tokens is 0, but must be") as caught:
        config.load({"max_tokens": 0})
    assert caught.value.status == 2
    monkeypatch.setenv("MULL_THINK", "lots")
    with pytest.raises(CommandError, match="MULL_THINK is 'lots', but must be off, max or"):
        config.load()


def test_choices_are_remembered_one_by_one_and_a_damaged_file_is_forgotten() -> None:
    assert config.recalled() == config.Remembered()
    config.remember("think", 256)
    config.remember("theme", "dark")
    config.remember("meter", False)
    assert config.recalled() == config.Remembered(think=256, theme="dark", meter=False)
    assert [path.name for path in locations.state_directory().iterdir()] == ["state.json"]
    locations.state_file().write_text("{")
    assert config.recalled() == config.Remembered()
