"""The published schemas are those of the structs."""

import json
from importlib.resources import files

import pytest

from engine.protocol.schemas import SCHEMAS, render

WITHOUT_QUANTITIES = {"mull.preview.1.schema.json", "mull.replay.1.schema.json"}
"""One foresees spreads, and one counts choices."""


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_the_one_that_the_struct_has(name: str) -> None:
    published = (files("assets") / "schemas" / name).read_text("utf-8")
    assert published == render(SCHEMAS[name]), "run: python -m engine.protocol.schemas assets/schemas"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_states_each_quantity_with_unit_and_method(name: str) -> None:
    parts = json.loads((files("assets") / "schemas" / name).read_text("utf-8"))["$defs"]
    figures = [part for part in parts.values() if {"value", "unit"} <= set(part.get("properties", ()))]
    assert all({"value", "unit", "method"} == set(figure["required"]) for figure in figures)
    assert figures or name in WITHOUT_QUANTITIES
