"""The hardware table: built-in TOML files and a user's own, read into frozen profiles and validated.

Knows data only; which of these machines is the present one is `profiles.detect`'s business.
"""

import difflib
import logging
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

Basis = Literal["datasheet", "estimated", "measured"]
Kind = Literal["gpu", "cpu"]
DTYPES = ("fp32", "bf16", "fp16", "fp8", "int8")
GENERIC_CPU = "cpu"  # the id of the profile that an unrecognized processor starts from

_log = logging.getLogger(__name__)


class InvalidProfile(ValueError):
    """A profile file that cannot be used; one line naming the entry, the field and what is wrong."""


class UnknownProfile(LookupError):
    """No profile of that name; one line with the nearest one."""


@dataclass(frozen=True)
class Figure:
    """A hardware figure in SI base units (B/s or FLOP/s) and how it is known."""

    value: float
    basis: Basis


@dataclass(frozen=True)
class Profile:
    """One piece of hardware. None, or a dtype absent from `peaks`, means unknown.

    `match` is a regular expression for the whole device name as its driver or kernel reports it; a
    profile without one is never detected and serves predictions. `memory_bytes` is None where the
    model lives in the machine's RAM. `peaks` are dense, with 32-bit accumulation.
    """

    id: str
    name: str
    vendor: str
    kind: Kind
    source: str
    match: str | None = None
    memory_bytes: int | None = None
    sm_count: int | None = None
    bandwidth: Figure | None = None
    peaks: Mapping[str, Figure] = field(default_factory=dict)
    watts: float | None = None
    quant: str | None = None
    """As which weights are kept where nothing else is asked for: as for `--quant`."""

    @property
    def dtype(self) -> str | None:
        """The dtype that models compute in here: the one whose peak a prediction is made with."""
        return next((dtype for dtype in ("bf16", "fp16", "fp32") if dtype in self.peaks), None)

    def as_object(self) -> dict[str, object]:
        """The profile as JSON-able data."""
        return {
            "id": self.id,
            "name": self.name,
            "vendor": self.vendor,
            "kind": self.kind,
            "memory_bytes": self.memory_bytes,
            "sm_count": self.sm_count,
            "bandwidth": _figure_object(self.bandwidth, "B/s") if self.bandwidth else None,
            "peaks": {dtype: _figure_object(peak, "FLOP/s") for dtype, peak in self.peaks.items()},
            "watts": self.watts,
            "source": self.source,
        }


def _figure_object(figure: Figure, unit: str) -> dict[str, object]:
    return {"value": figure.value, "unit": unit, "basis": figure.basis}


def load(user_dir: Path | None = None, *, warn: Callable[[str], None] = _log.warning) -> list[Profile]:
    """All profiles, the built-in ones first; one of `user_dir/*.toml` replaces a built-in of the same id.

    `warn` receives one line for each user file that is left out, with the reason.
    """
    found: dict[str, Profile] = {}
    for resource in sorted((files("profiles") / "catalogue").iterdir(), key=lambda item: item.name):
        if resource.name.endswith(".toml"):
            found.update((profile.id, profile) for profile in parse(resource.read_text("utf-8")))
    for path in sorted(user_dir.glob("*.toml")) if user_dir is not None else ():
        try:
            found.update((profile.id, profile) for profile in parse(path.read_text("utf-8")))
        except (InvalidProfile, OSError, UnicodeError) as error:
            warn(f"profile file {path.name!r} is left out: {error}")
    return list(found.values())


def find(name: str, profiles: Iterable[Profile] | None = None) -> Profile:
    """The profile with this id or name, in any case, among `profiles` or else the built-in ones.

    Raises `UnknownProfile` with the nearest one.
    """
    among = load() if profiles is None else profiles
    known = {key.casefold(): profile for profile in among for key in (profile.name, profile.id)}
    profile = known.get(name.casefold())
    if profile is None:
        near = difflib.get_close_matches(name.casefold(), known, n=1)
        hint = f"did you mean {known[near[0]].id}? " if near else ""
        raise UnknownProfile(f"unknown profile {name!r}; {hint}`mull profiles` lists them all")
    return profile


def parse(text: str) -> list[Profile]:
    """The `[[profile]]` entries of one TOML document; raises `InvalidProfile` with one line."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidProfile(f"not valid TOML: {error}") from None
    entries = document.get("profile")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidProfile("it has no [[profile]] entries")
    profiles = [_profile(entry) for entry in entries]
    if len({profile.id for profile in profiles}) < len(profiles):
        raise InvalidProfile("two entries have the same id")
    return profiles


_TEXTS = ("id", "name", "vendor", "kind", "source")
_NUMBERS = ("memory_gib", "sm_count", "bandwidth_gb_s", "watts")
_FIELDS = (*_TEXTS, *_NUMBERS, "match", "quant", "bandwidth_basis", "tflops", "tflops_basis")


def _profile(entry: Mapping[str, object]) -> Profile:
    label = repr(entry.get("id", "without id"))[:60]
    for key in entry:
        if key not in _FIELDS:
            near = difflib.get_close_matches(key, _FIELDS, n=1)
            raise InvalidProfile(f"{label}: unknown field {key!r}" + (f", perhaps {near[0]}" if near else ""))
    texts = {key: _text(entry, key, label) for key in _TEXTS}
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", texts["id"]):
        raise InvalidProfile(f"{label}: an id has lower-case letters, digits, '-' and '.' only")
    if texts["kind"] not in get_args(Kind):
        raise InvalidProfile(f"{label}: kind is 'gpu' or 'cpu', not {texts['kind']!r}")
    match = _text(entry, "match", label) if "match" in entry else None
    try:
        re.compile(match or "")
    except re.error as error:
        raise InvalidProfile(f"{label}: match is no regular expression: {error}") from None
    peaks = entry.get("tflops", {})
    if not isinstance(peaks, dict) or not set(peaks) <= set(DTYPES):
        raise InvalidProfile(f"{label}: tflops is a table with keys among {', '.join(DTYPES)}")
    numbers = {key: _positive(entry[key], key, label) for key in _NUMBERS if key in entry}
    memory, sm_count, bandwidth = (numbers.get(key) for key in _NUMBERS[:3])
    basis = _basis(entry, "tflops_basis", label)
    return Profile(
        id=texts["id"],
        name=texts["name"],
        vendor=texts["vendor"],
        kind="gpu" if texts["kind"] == "gpu" else "cpu",
        source=texts["source"],
        match=match,
        memory_bytes=None if memory is None else round(memory * 2**30),
        sm_count=None if sm_count is None else round(sm_count),
        bandwidth=None
        if bandwidth is None
        else Figure(bandwidth * 1e9, _basis(entry, "bandwidth_basis", label)),
        peaks={dtype: Figure(_positive(peak, dtype, label) * 1e12, basis) for dtype, peak in peaks.items()},
        watts=numbers.get("watts"),
        quant=_text(entry, "quant", label) if "quant" in entry else None,
    )


def _text(entry: Mapping[str, object], key: str, label: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InvalidProfile(f"{label}: {key} has to be a line of text")
    return value


def _positive(value: object, key: str, label: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidProfile(f"{label}: {key} has to be a positive number")
    return value


def _basis(entry: Mapping[str, object], key: str, label: str) -> Basis:
    value = entry.get(key, "datasheet")
    for basis in get_args(Basis):
        if value == basis:
            return basis
    raise InvalidProfile(f"{label}: {key} is one of {', '.join(get_args(Basis))}")
