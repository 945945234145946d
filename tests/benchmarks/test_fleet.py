"""The fleet benchmark's drives: what is planted is in them, and what is said to be right lies beside them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.fleet_drives import EVERY_PLANTED, PLANTED, Drive, Recording, plan, right_at, spoilt
from benchmarks.fleet_loop import MINED, RECIPE, recipe_text
from build_engines.recipe import Recipe, load_recipe
from edge_runtime.bundle import open_bundle
from edge_runtime.bundles import bundle_path
from edge_runtime.messages import Sample
from edge_runtime.pipeline import Pipeline
from edge_runtime.recording import reader
from edge_runtime.replay import recorded_answer, replay


def test_drives_are_recorded_with_what_is_planted_and_replay_as_they_were_decided(tmp_path: Path) -> None:
    drives = [Drive(str(tmp_path / f"{plant}.mcap"), 700_001, 2.0, plant) for plant in ("sign", "drift")]
    assert list(Recording()()(iter(drives))) == ["sign.mcap", "drift.mcap"]
    with (tmp_path / "sign.csv").open() as file:
        rows = [(float(row["start_s"]), float(row["end_s"]), row["label"]) for row in csv.DictReader(file)]
    assert any(label == "stop" and start < 1.0 < end for start, end, label in rows), "at the sign"
    assert [start for start, _, _ in rows][1:] == [end for _, end, _ in rows][:-1] and rows[-1][1] == 2.0
    pipeline = Pipeline(open_bundle(bundle_path("shipped:vehicle"), allow_unsigned=True))
    recording = reader.Recording(tmp_path / "sign.mcap")
    pairs = [(recorded_answer(live), now) for live, now in replay(recording, lambda _: pipeline)]
    assert len(pairs) == 10 and all(live == now for live, now in pairs)
    last = [
        [one.values["speed_mps"] for one in reader.Recording(tmp_path / f"{name}.mcap").events()
         if isinstance(one, Sample) and "speed_mps" in one.values][-1]
        for name in ("sign", "drift")
    ]  # fmt: skip
    assert 5.0 < last[1] - last[0] <= 6.0, "3 m/s more each second"


def test_what_is_judged_by_the_sign_alone_is_labelled_only_where_it_stands(tmp_path: Path) -> None:
    drive = Drive(str(tmp_path / "sign.mcap"), 700_001, 2.0, "sign", alone=True)
    list(Recording()()(iter([drive])))
    with (tmp_path / "sign.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"stop"}
    assert float(rows[0]["start_s"]) >= 0.6 and float(rows[-1]["end_s"]) <= 1.6 + 1e-9
    assert [right_at(Path(drive.path), at_s) for at_s in (0.1, 1.0, 1.9)] == ["", "stop", ""]


def test_the_loop_s_recipe_is_the_shipped_one_with_less_and_learns_what_was_labelled(tmp_path: Path) -> None:
    (tmp_path / "after.toml").write_text(recipe_text("after") + MINED)
    found, _ = load_recipe(tmp_path / "after.toml")
    shipped, _ = load_recipe(RECIPE)
    assert isinstance(found, Recipe) and isinstance(shipped, Recipe)
    assert found.mined.folders == (str(tmp_path / "to-label"),) and found.mined.times > 1
    assert (found.labels, found.seed, found.decision) == (shipped.labels, shipped.seed, shipped.decision)
    assert found.world.train_episodes < shipped.world.train_episodes


def test_one_in_so_many_is_planted_the_kinds_by_turns() -> None:
    drives = plan(Path("drives"), 10 * EVERY_PLANTED, 4.0)
    counts = Counter(drive.plant for drive in drives)
    assert sum(counts[plant] for plant in PLANTED) == 10 and min(counts[plant] for plant in PLANTED) == 3
    assert len({drive.path for drive in drives}) == len(drives)


def test_fog_takes_contrast_and_a_sign_covers_a_part_of_the_picture() -> None:
    image = np.random.default_rng(1).integers(0, 255, (360, 640, 3), np.uint8)
    assert spoilt(image, "fog", False).std() < 0.2 * image.std()
    shown = (spoilt(image, "sign", True) != image).any(axis=2).mean()
    assert 0.01 < shown < 0.1
    assert np.array_equal(spoilt(image, "", False), image)
