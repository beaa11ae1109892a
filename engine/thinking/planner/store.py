"""Finds what was measured of a model: in the user's own folder, else beside the model. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.protocol import ModelInfo
from engine.protocol.calibration import BESIDE, CalibrationRecord, DeviceCurve, curve_name, record_name
from engine.protocol.preview import Basis
from engine.tasks.features import NAMES

Kept = TypeVar("Kept", CalibrationRecord, DeviceCurve)


@dataclass(frozen=True)
class Known:
    """What is known of a model: how it answers, and from where; how fast it is on this device."""

    record: CalibrationRecord | None = None
    basis: Basis = "guess"
    curve: DeviceCurve | None = None


def known(info: ModelInfo, folder: Path | None) -> Known:
    """What there is; a file that is damaged, or of another version's making, counts as none."""
    own = curve = None
    if folder is not None:
        own = _usable(_read(folder / record_name(info.fingerprint), CalibrationRecord))
        curve = _read(folder / curve_name(info.fingerprint), DeviceCurve)
    if own is not None:
        return Known(own, "measured", curve)
    shipped = _usable(_read(Path(info.path) / BESIDE, CalibrationRecord))
    return Known(shipped, "shipped" if shipped is not None else "guess", curve)


def _read(path: Path, kind: type[Kept]) -> Kept | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def _usable(record: CalibrationRecord | None) -> CalibrationRecord | None:
    """The record, if it has an entry for each question in each column, and questions are counted as now."""
    if record is None or not record.questions or not record.outcomes:
        return None
    whole = all(
        len(column) == len(record.questions)
        for one in record.outcomes
        for column in (one.right, one.thinking, one.tokens, one.path)
    )
    return record if whole and all(len(counts) == len(NAMES) for counts in record.questions) else None
