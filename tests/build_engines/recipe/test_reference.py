"""docs/recipe.md: made from the code, up to date, with something to say of every key, and examples that are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from build_engines.recipe.recipe import OnnxRecipe, Recipe
from build_engines.recipe.reference import Table, reference, tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = Path(__file__).parents[3] / "docs" / "recipe.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m build_engines.recipe.reference > docs/recipe.md"
    )


@pytest.mark.parametrize("table", tables(), ids=lambda table: f"{table.header} {table.struct.__name__}")
def test_every_key_has_a_meaning_and_an_example_of_its_type(table: Table) -> None:
    hints = {field.encode_name: field.type for field in msgspec.structs.fields(table.struct)}
    for root in (Recipe, OnnxRecipe) if not table.header else ():
        hints |= {field.encode_name: field.type for field in msgspec.structs.fields(root)}
    for key in table.keys:
        assert key.meaning, f"{table.struct.__name__}.{key.name} says nothing"
        assert key.example.startswith(f"{key.name} = "), f"{table.struct.__name__}.{key.name} has no example"
        if key.name in hints and not key.example.endswith("..."):
            value: Any = tomllib.loads(key.example)[key.name]
            msgspec.convert(value, hints[key.name], strict=True)


def test_every_struct_of_a_recipe_has_its_table() -> None:
    named = {table.struct.__name__ for table in tables()}
    assert {"Recipe", "CameraStream", "SensorStream", "TextStream", "AudioStream", "OnnxInput", "PixelRecipe"} <= named
    top = next(table for table in tables() if not table.header)
    assert {"name", "labels", "head", "seed"} <= {key.name for key in top.keys}
