"""The published schemas are those of the structs."""

import json
from importlib.resources import files

import pytest

from engine.protocol.schemas import SCHEMAS, render


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_the_one_that_the_struct_has(name: str) -> None:
    published = (files("assets") / "schemas" / name).read_text("utf-8")
    assert published == render(SCHEMAS[name]), "run: python -m engine.protocol.schemas assets/schemas"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_states_each_quantity_with_unit_and_method(name: str) -> None:
    quantity = json.loads((files("assets") / "schemas" / name).read_text("utf-8"))["$defs"]["Quantity"]
    assert set(quantity["required"]) == {"value", "unit", "method"}
