"""Settings: flag > MULL_* > config.toml > default, and the choices remembered from the last time.

Knows nothing of the command line's options nor of the screen; it is handed what was given there.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, get_args

import msgspec
from msgspec import Struct

from app import locations
from app.errors import CommandError, reason
from app.files import write_atomically
from app.verifying import verifier_name
from engine.protocol import KV, AnswerType, Limit, ModelSpec, Overflow, Sampling, Think
from engine.protocol.budget import EXAMPLES, parse_limits
from engine.protocol.quant import parse_quant

ShowThinking = Literal["hidden", "line", "full"]

_SWITCHES = {"MULL_KERNELS"}
"""Variables that the engine reads by itself: for finding out what is wrong, not settings."""


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set; what is None follows from the model, the hardware profile or the engine."""

    model: str = "tiny"
    profile: str | None = None
    device: str | None = None
    threads: int | None = None
    context: int | None = None
    quant: str | None = None
    """In what weights are kept; None: as the checkpoint has them, or as the profile says."""
    kv: KV = "model"
    deterministic: bool = False
    draft: str | None = None
    """Who guesses ahead; None: the text itself, where that pays."""
    think: Think = "max"
    step_by_step: bool = False
    """A model that marks no thoughts is made to think in words (prompted chain of thought)."""
    min_think: int = 0
    """Tokens below which the model is not let end its thoughts."""
    budget: str | None = None
    """What an answer may spend in all: `30s,2000tok`."""
    method: str | None = None
    type: AnswerType | None = None
    """How answers are compared; None: by the type that they are found to have."""
    verifier: str | None = None
    """Who chooses among several answers, as `app.verifying` reads it; None: whoever fits their type."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    max_tokens: int | None = None
    confidence: bool = False
    settling: bool = True
    """In the app: find out, while nothing else is to be done, where an answer's thought settled."""
    overflow: Overflow = "stop"
    """What happens to a conversation that outgrows the context."""
    keep_alive: float | None = None
    """Seconds that the engine stays without anything to do, 0: it leaves with its last client.

    None leaves it at what the engine was told last, at first 10 minutes.
    """
    prompt_store: int | None = None
    """Bytes on disk for what prompts were computed to, 0: none are kept.

    None: 4 GB, at most a tenth of the free space. An engine that runs keeps to what it was started with.
    """
    quantized_store: int | None = None
    """Bytes on disk for weights that were quantized as they were loaded, 0: none are kept.

    None: 50 GB, at most a quarter of the free space. An engine that runs keeps to what it was started with.
    """
    offline: bool = False
    theme: str | None = None
    show_thinking: ShowThinking = "line"

    def spec(self) -> ModelSpec:
        """Which model to run and how."""
        return ModelSpec(
            model=self.model,
            device=self.device,
            profile=self.profile,
            context=self.context,
            threads=self.threads,
            quant=self.quant,
            kv=self.kv,
            deterministic=self.deterministic,
            draft=self.draft,
            step_by_step=self.step_by_step,
        )

    def limits(self) -> tuple[Limit, ...]:
        """What an answer may spend in all, by unit."""
        return parse_limits([self.budget] if self.budget else [])

    def sampling(self) -> Sampling:
        """How tokens are chosen."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=self.seed)


class Configuration(NamedTuple):
    """The settings, where each came from, and what to tell the person about the sources."""

    settings: Settings
    origins: dict[str, str]
    """By setting: "flag", the name of a variable, "config.toml" or "default"."""
    warnings: tuple[str, ...]


class _Kind(NamedTuple):
    """What a setting may be: in words, and as a function that raises ValueError for anything else."""

    allowed: str
    read: Callable[[object], object]


def load(flags: Mapping[str, object] | None = None) -> Configuration:
    """Settings from all sources; a flag that is None was not given.

    Raises CommandError naming the source, the key and what is allowed.
    """
    values: dict[str, object] = {}
    origins = dict.fromkeys(_KINDS, "default")
    warnings: list[str] = []

    path = locations.config_file()
    for key, value in _file_table().items():
        if key in _KINDS:
            values[key] = _checked(key, value, f"{path}: {key}")
            origins[key] = path.name
        else:
            warnings.append(f"{path}: there is no setting {key!r}{_nearest(key, _KINDS)}")

    variables = {f"MULL_{key.upper()}": key for key in _KINDS}
    for name, text in os.environ.items():
        if name in variables:
            key = variables[name]
            values[key] = _checked(key, text, name)
            origins[key] = name
        elif name.startswith("MULL_") and name not in _SWITCHES:
            warnings.append(f"there is no setting {name}{_nearest(name, variables)}")

    for key, value in (flags or {}).items():
        if value is not None:
            values[key] = _checked(key, value, f"--{key.replace('_', '-')}", status=2)
            origins[key] = "flag"
    _let_plan(values, origins)
    return Configuration(msgspec.convert(values, Settings), origins, tuple(warnings))


def _let_plan(values: dict[str, object], origins: dict[str, str]) -> None:
    """`think = auto` means the method auto, which plans; a method that a flag names goes before a file's."""
    if values.get("think") != "auto":
        return
    values["think"] = "max"
    if origins["method"] != "flag":
        values["method"], origins["method"] = "auto", origins["think"]
    elif origins["think"] == "flag" and values["method"] != "auto":
        raise CommandError(
            f"--think auto has the method planned, but --method is {values['method']}",
            "leave one of the two out",
            status=2,
        )


def _file_table() -> dict[str, object]:
    path = locations.config_file()
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CommandError(f"cannot read {path}: {reason(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is not valid TOML: {error}", "correct it or move it away") from error


def _checked(key: str, value: object, where: str, status: int = 1) -> object:
    kind = _KINDS[key]
    try:
        return kind.read(value)
    except ValueError:
        raise CommandError(f"{where} is {value!r}, but must be {kind.allowed}", status=status) from None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def think(value: object) -> Think:
    """A thinking budget: off, max or a number of tokens. Raises ValueError."""
    if value in ("off", "max"):
        return value
    return _whole(0)(value) or "off"


def _think_or_auto(value: object) -> Think | Literal["auto"]:
    return "auto" if value == "auto" else think(value)


def duration(value: object) -> float:
    """Seconds of a duration such as 30s, 10m, 1h or a bare number. Raises ValueError."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", value.strip())):
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, None: 1}[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise ValueError


def size(value: object) -> int:
    """Bytes of a size such as 4GB, 500 MB, 1.5GiB, off or a bare number. Raises ValueError."""
    if value == "off":
        return 0
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,6})?) ?(?:([kmgt])(i?))?b?", str(value).strip().lower())
    if match is None:
        raise ValueError
    count = int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))
    if count >= 2**63:
        raise ValueError
    return count


def budget(value: object) -> str:
    """Limits as `engine.protocol.budget` reads them, several apart by commas or in a list; off is none.

    Raises ValueError.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    text = ",".join(part for part in map(str, parts) if part != "off")
    if text:
        parse_limits([text])
    return text


def quantization(value: object) -> str:
    """Text as `engine.protocol.quant` reads it. Raises ValueError."""
    parse_quant(str(value))
    return str(value)


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        value.encode()  # raises UnicodeEncodeError, a ValueError, for what no message can carry
        return value
    raise ValueError


def _whole(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool | float):
            raise ValueError
        number = int(str(value))
        if not least <= number < 2**63:
            raise ValueError
        return number

    return read


def _number(least: float, most: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        if isinstance(value, bool):
            raise ValueError
        number = float(str(value))
        if not least <= number <= most:
            raise ValueError
        return number

    return read


def _truth(value: object) -> bool:
    match str(value).lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off" | "":
            return False
        case _:
            raise ValueError


def _one_of(choices: tuple[str, ...]) -> _Kind:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return _Kind(" or ".join(choices), read)


_NAME = _Kind("a name in quotes", _text)
_COUNT = _Kind("a whole number from 1 up", _whole(1))
_NATURAL = _Kind("a whole number from 0 up", _whole(0))
_KINDS: dict[str, _Kind] = {
    "model": _Kind("a folder, a repository or a name", _text),
    "profile": _Kind("the name of a hardware profile (see: mull profiles)", _text),
    "device": _Kind("cpu, cuda or cuda:N", _text),
    "threads": _COUNT,
    "context": _COUNT,
    "quant": _Kind("none, int8, int4, fp8 or auto, with exceptions ,PATTERN=KIND", quantization),
    "kv": _one_of(get_args(KV)),
    "deterministic": _Kind("true or false", _truth),
    "step_by_step": _Kind("true or false", _truth),
    "draft": _Kind("a model, exit:N or off", _text),
    "min_think": _NATURAL,
    "budget": _Kind(f"an amount such as {EXAMPLES}, or off", budget),
    "think": _Kind("off, max or a number of tokens, or auto", _think_or_auto),
    "method": _NAME,
    "type": _one_of(get_args(AnswerType)),
    "verifier": _Kind("steps, confidence, tests:FILE, judge or consistency", verifier_name),
    "temperature": _Kind("a number from 0 up", _number(0, 1e6)),
    "top_p": _Kind("a number from 0 to 1", _number(0, 1)),
    "top_k": _NATURAL,
    "seed": _NATURAL,
    "max_tokens": _COUNT,
    "confidence": _Kind("true or false", _truth),
    "settling": _Kind("true or false", _truth),
    "overflow": _one_of(get_args(Overflow)),
    "keep_alive": _Kind("a duration such as 30s, 10m, 1h or 0", duration),
    "prompt_store": _Kind("a size such as 500MB, 4GB or off", size),
    "quantized_store": _Kind("a size such as 500MB, 4GB or off", size),
    "offline": _Kind("true or false", _truth),
    "theme": _NAME,
    "show_thinking": _one_of(get_args(ShowThinking)),
}


class Remembered(Struct, frozen=True, kw_only=True):
    """Choices made in the app, kept for the next time; None where nothing was chosen."""

    think: Think | None = None
    budget: str | None = None
    method: str | None = None
    theme: str | None = None
    show_thinking: ShowThinking | None = None
    meter: bool | None = None


def recalled() -> Remembered:
    """What was remembered; nothing where the file is missing or damaged."""
    try:
        return msgspec.json.decode(locations.state_file().read_bytes(), type=Remembered)
    except (OSError, msgspec.MsgspecError):
        return Remembered()


def remember(key: str, value: Think | str | bool | None) -> None:
    """Keep a choice, a field of Remembered. Where the disk refuses, it is forgotten: no reason to disturb."""
    path = locations.state_file()
    state = msgspec.structs.replace(recalled(), **{key: value})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(state), mode=0o600)
    except OSError:
        pass
