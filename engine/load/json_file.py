"""A JSON object from a file that somebody else wrote. Knows no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.load.errors import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelError."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}", "download the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", "download the file again")
    return value
