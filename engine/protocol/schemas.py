"""The JSON Schemas of what commands print, made from the structs: `python -m engine.protocol.schemas DIR`."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import msgspec

from engine.protocol.bench import BenchReport
from engine.protocol.preview import Preview
from engine.protocol.quantize import QuantizationResult
from engine.protocol.receipt import Answer, Receipt
from engine.protocol.replay import ReplayReports
from engine.protocol.speed import SpeedReport

SCHEMAS = {
    "mull.answer.1.schema.json": Answer,
    "mull.bench.1.schema.json": BenchReport,
    "mull.preview.1.schema.json": Preview,
    "mull.quantization.1.schema.json": QuantizationResult,
    "mull.receipt.1.schema.json": Receipt,
    "mull.replay.1.schema.json": ReplayReports,
    "mull.speed.1.schema.json": SpeedReport,
}


def render(struct: type) -> str:
    """The struct's JSON Schema (draft 2020-12) as text with a final newline."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(struct)}
    # descriptions are docstrings: versions of msgspec differ in what they make of their indentation
    for part in (schema, *schema.get("$defs", {}).values()):
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
    return json.dumps(schema, indent=2) + "\n"


def main(folder: Path) -> None:
    """Write all schemas into the folder."""
    for name, struct in SCHEMAS.items():
        (folder / name).write_text(render(struct), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
