"""The city recipe reads its data's layout as it should, where that data is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import build_engines
from build_engines.data.datasets import layout_of_recipe
from build_engines.recipe import Recipe, load_recipe
from calibration.moments import replay

PACKAGE = Path(build_engines.__file__).parent
ROOT = PACKAGE.parent
DATA = Path(os.environ.get("EDGE_RUNTIME_DATA", ROOT.parent / "shared" / "data")) / "city-traffic"
needs_data = pytest.mark.skipif(
    not (DATA / "val").is_dir(), reason=f"no city-traffic data at {DATA}; set EDGE_RUNTIME_DATA to its parent folder"
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    found = load_recipe(PACKAGE / "recipes" / "city.toml")[0]
    assert isinstance(found, Recipe)
    return found


def test_one_camera_decides_and_the_licence_forbids_shipping(recipe: Recipe) -> None:
    assert recipe.modalities == ("camera.front",)
    assert (recipe.head, recipe.labels) == ("sigmoid", ("incident",))
    assert "ship neither pictures nor weights" in recipe.licence


@needs_data
def test_accidents_and_fires_are_incidents_and_every_picture_is_admitted(recipe: Recipe) -> None:
    rows = {row["id"]: row for row in map(json.loads, (DATA / "val" / "samples.jsonl").read_text().splitlines())}
    moments = list(layout_of_recipe(recipe).read(DATA, "val", recipe.streams))
    assert len(moments) == len(rows)
    for moment in moments:
        row = rows[moment.id]
        assert moment.label == ("incident" if row["label"] in ("accident", "fire") else "none")
        assert moment.cluster == str(row["cluster"])
    admitted = [aligned.slices["camera.front"].present for _, aligned in replay(recipe.streams, moments[::40])]
    assert all(admitted)
