"""Labelled moments that mining found: learned beside the training split, as often as the recipe says."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from build_engines.data.datasets import Prepared, recipe_json
from build_engines.data.paired import NO_CLASS, PairedSource
from build_engines.data.world import prepare
from build_engines.recipe import MinedRecipe, Recipe, load_recipe, own_files
from edge_runtime.errors import ConfigError, UserError

TIMES = 5


def write_mined(folder: Path, labels: tuple[str, ...]) -> Path:
    """As `build-engines mine --labelled` leaves it, with moments of two recordings."""
    (folder / "train").mkdir(parents=True)
    (folder / "moments").mkdir()
    rows = []
    for number, label in enumerate(labels):
        picture, readings = f"moments/{number}.image.png", f"moments/{number}.sensors.csv"
        image = np.full((16, 16, 3), 40 + number, np.uint8)
        (folder / picture).write_bytes(cv2.imencode(".png", image)[1].tobytes())
        (folder / readings).write_text(f"t_s,a_v,b_v\n-0.1,0.5,{number}\n0.0,,\n")
        rows.append({
            "id": f"car{number % 2}/{number}", "recording": f"car{number % 2}", "condition": "", "image": picture,
            "sensors": readings, "text": "yes please", "label": label, "decided": "none", "why": "unlike",
        })  # fmt: skip
    (folder / "train" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def mined(tmp_path: Path) -> Path:
    return write_mined(tmp_path / "to-label", ("three", "three", "two"))


def with_mined(recipe: Recipe, *folders: Path, times: int = TIMES) -> Recipe:
    return msgspec.structs.replace(recipe, mined=MinedRecipe(tuple(map(str, folders)), times))


def test_an_epoch_gives_each_mined_moment_so_many_times_beside_all_others(
    recipe: Recipe, prepared: Prepared, world: Path, mined: Path, tmp_path: Path
) -> None:
    found = prepare(with_mined(recipe, mined), world, tmp_path / "cache")
    before, source = prepared.train, found.train
    assert isinstance(before, PairedSource) and isinstance(source, PairedSource)
    assert (source.counts - before.counts).tolist() == [0, 0, TIMES, 2 * TIMES]
    known = len(before.arrays["labels"])
    assert len(source.arrays["labels"]) == known + 3
    assert [str(group) for group in source.arrays["groups"][known:]] == ["car0", "car1", "car0"]
    assert np.asarray(source.arrays["presence"])[known:].all(), "picture, readings and sentence of each"
    assert np.array_equal(source.arrays["sensors window"][:known], before.arrays["sensors window"][:])
    assert found.digest != prepared.digest and len(found.val) == len(prepared.val)
    assert found.streams == prepared.streams and found.tokenizer == prepared.tokenizer, "as fitted to the split"
    seen = np.concatenate([batch.label for batch in source.epoch(np.random.default_rng(1))])
    assert len(seen) == source.steps * 32 and source.steps == (known + 3 * TIMES) // 32
    assert (np.asarray(source.in_order()[-1].label)[-2 * TIMES :] == [3] * TIMES + [2] * TIMES).all()


def test_mined_moments_have_no_auxiliary_label(prepared: Prepared, recipe: Recipe) -> None:
    plain = prepared.train
    assert isinstance(plain, PairedSource)
    scene = {"scene": np.arange(len(plain.arrays["labels"])) % 2}
    source = PairedSource(recipe, prepared.tokenizer, plain.arrays, scene).and_also(plain.arrays, 1)
    batches = list(source.in_order())
    classes = np.concatenate([batch.aux["scene"] for batch in batches])
    assert classes[: len(classes) // 2].min() == 0 and set(classes[len(classes) // 2 :]) == {NO_CLASS}
    assert source.aux_counts["scene"].sum() == len(classes) // 2


def test_other_labels_train_again_and_a_bundle_does_not_say_where_they_lie(
    recipe: Recipe, recipe_file: Path, tmp_path: Path
) -> None:
    write_mined(tmp_path / "to-label", ("three",))
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_file.read_text() + '\n[mined]\nfolders = ["to-label"]\ntimes = 2\n')
    found, _ = load_recipe(path)
    assert isinstance(found, Recipe) and found.mined.folders == (str(tmp_path / "to-label"),)
    assert own_files(recipe) == {}
    before = own_files(found)
    table = tmp_path / "to-label" / "train" / "samples.jsonl"
    table.write_text(table.read_text().replace("three", "two"))
    assert own_files(found) != before
    assert b'"to-label"' in recipe_json(found) and str(tmp_path).encode() not in recipe_json(found)


def test_a_layout_that_cannot_take_them_and_a_folder_that_is_not_labelled_are_one_line(
    recipe: Recipe, recipe_file: Path, world: Path, tmp_path: Path
) -> None:
    path = tmp_path / "home.toml"
    text = recipe_file.read_text().replace('layout = "world"', 'layout = "home"')
    path.write_text(text + '\n[mined]\nfolders = ["to-label"]\n')
    with pytest.raises(ConfigError, match="mined.folders goes with the layouts samples, .*; the layout is 'home'"):
        load_recipe(path)
    with pytest.raises(UserError, match=r"samples\.jsonl"):
        prepare(with_mined(recipe, tmp_path / "nowhere"), world, tmp_path / "cache")
    with pytest.raises(UserError, match="'four'"):
        prepare(with_mined(recipe, write_mined(tmp_path / "wrong", ("four",))), world, tmp_path / "cache")
