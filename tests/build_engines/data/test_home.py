"""The home layout's rule, and its reader on the real data where that is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import build_engines
from build_engines.data.datasets import layout_of
from build_engines.data.home import join_label, prepare, read
from build_engines.recipe import Recipe, load_recipe
from calibration.moments import replay

ROOT = Path(build_engines.__file__).parents[1]
DATA = Path(os.environ.get("EDGE_RUNTIME_DATA", ROOT.parent / "shared" / "data")) / "home-control"
needs_data = pytest.mark.skipif(
    not (DATA / "val").is_dir(),
    reason=f"no home-control data at {DATA}; set EDGE_RUNTIME_DATA to its parent folder",
)


@pytest.mark.parametrize(
    ("action", "gesture", "occupants", "label"),
    [
        ("light_on", 0, 2, "cancel"),
        ("light_on", 5, 0, "hold"),
        ("light_on", 5, 1, "light_on"),
        ("light_off", 5, 0, "light_off"),
        ("query", 9, 0, "query"),
        ("light_on", None, 0, "hold"),
        ("light_on", None, 2, "light_on"),
    ],
)
def test_rule(action: str, gesture: int | None, occupants: int, label: str) -> None:
    assert join_label(action, gesture, occupants) == label


@needs_data
def test_the_rule_gives_every_label_of_the_validation_split() -> None:
    for line in (DATA / "val" / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        parts = row["labels"]
        assert join_label(parts["action"], parts["gesture"], parts["occupants"]) == row["label"]


@needs_data
def test_every_sample_is_admitted_and_independent() -> None:
    recipe, _ = load_recipe(ROOT / "build_engines" / "recipes" / "home.toml")
    assert layout_of(DATA, "val").MARKER == "samples.jsonl"
    count = 0
    for moment, aligned in replay(recipe.streams, read(DATA, "val", recipe.streams)):
        assert all(part.present for part in aligned.slices.values()), moment.id
        assert moment.label_without["camera.front"] != "cancel"
        assert moment.label_without["camera.front"] == moment.label or moment.label == "cancel"
        count += 1
        if count == 200:
            break
    assert count == 200


@needs_data
def test_folds_part_sentences_pictures_and_rooms_by_their_groups() -> None:
    recipe, _ = load_recipe(ROOT / "build_engines" / "recipes" / "home.toml")
    assert isinstance(recipe, Recipe)
    prepared = prepare(recipe, DATA, DATA)
    assert prepared.folds is not None
    spoken = sum(1 for _ in (DATA / "train" / "voice.jsonl").open(encoding="utf-8"))
    folds = [make() for make in prepared.folds(4, recipe.seed)]
    assert len(folds) == 4
    assert sum(len(fold.groups) for fold in folds) == 2 * spoken
    for fold, others in zip(folds, folds[1:] + folds[:1], strict=True):
        assert not {*fold.groups} & {*others.groups}
        counts = np.bincount(np.concatenate([batch.label for batch in fold.judged]), minlength=len(recipe.labels))
        hold, cancel = counts[recipe.labels.index("hold")], counts[recipe.labels.index("cancel")]
        assert 0.08 < cancel / counts.sum() < 0.16 and hold / counts.sum() > 0.05
        assert fold.train.steps < prepared.train.steps
