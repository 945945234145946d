"""The samples layout with several cameras, windows of readings and streams of sensors: what a moment's tensors are, and
the whole line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from rich.console import Console

from build_engines.data.samples import prepare, read
from build_engines.modalities.thinned import Thinned
from build_engines.model.export import export
from build_engines.model.monolith import compose_monolith, monolith_bundle, stage_graphs
from build_engines.model.train import save, train
from build_engines.model.trained_bundle import write_trained
from build_engines.recipe import MirrorRecipe, Recipe, load_recipe
from build_engines.recipe.variant import alone
from edge_runtime.bundle import open_bundle
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.messages import Sample
from edge_runtime.pipeline import Pipeline

RECIPE = """
name = "yard"
version = "1.0.0"
layout = "samples"
labels = ["still", "moving"]
trigger = "camera.front"
[dataset.fields]
"camera.front" = "pictures.front"
"camera.rear" = "pictures.rear"
gyro = "turning"
[streams."camera.front"]
kind = "camera"
width = 16
height = 12
rate_hz = 5.0
max_age_ms = 1000.0
[streams."camera.rear"]
kind = "camera"
width = 16
height = 12
rate_hz = 5.0
max_age_ms = 1000.0
[streams.gyro]
kind = "sensors"
rate_hz = 10.0
max_age_ms = 1000.0
window = 4
step_ms = 100.0
channels = [
  { name = "yaw", unit = "deg/s", minimum = -100.0, maximum = 100.0 },
  { name = "roll", unit = "deg/s", minimum = -100.0, maximum = 100.0 },
]
[decision]
safe_label = "still"
[model]
features = 8
[model.vision]
streams = ["camera.front", "camera.rear"]
widths = [4, 8]
[model.sensors]
stream = "gyro"
width = 8
[model.fusion]
kind = "concat"
width = 8
[train]
epochs = 1
batch = 8
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "yard.toml"
    path.write_text(RECIPE)
    read_recipe = load_recipe(path)[0]
    assert isinstance(read_recipe, Recipe)
    return read_recipe


def write(data: Path, rows: int, form: str, split: str = "train") -> None:
    """Pictures that grow brighter from row to row, the rear one a PNG; four readings 0.1 s apart, in that form."""
    folder = data / split
    folder.mkdir(parents=True)
    lines = []
    for index in range(rows):
        for name in ("front.jpg", "rear.png"):
            cv2.imwrite(str(folder / f"{index}-{name}"), np.full((12, 16, 3), 40 + 10 * index, np.uint8))
        readings = np.array([[index + step, -step] for step in range(4)], np.float32)
        turning: Any = [dict(zip(("yaw", "roll"), one, strict=True)) for one in readings.tolist()]
        if form == "npy":
            np.save(folder / f"{index}.npy", readings)
        elif form == "csv":
            table = "".join(f"{0.1 * step:.1f},{one[1]},{one[0]}\n" for step, one in enumerate(readings.tolist()))
            (folder / f"{index}.csv").write_text("t_s,roll,yaw\n" + table)
        if form != "list":
            turning = f"{split}/{index}.{form}"
        pictures = {"front": f"{split}/{index}-front.jpg", "rear": f"{split}/{index}-rear.png"}
        label = ("still", "moving")[index % 2]
        lines.append({"id": f"{split}-{index}", "label": label, "pictures": pictures, "turning": turning})
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("form", ["list", "csv", "npy"])
def test_both_cameras_and_the_window_are_as_they_were_written(recipe: Recipe, tmp_path: Path, form: str) -> None:
    write(tmp_path, 16, form)
    write(tmp_path, 4, form, "val")
    prepared = prepare(recipe, tmp_path, tmp_path / "work")
    batch = prepared.val[0]
    (pictures,) = batch.inputs["vision"]
    assert pictures.shape == (4, 2, 12, 16, 3)
    assert pictures.mean(axis=(1, 2, 3, 4)) == pytest.approx([40, 50, 60, 70], abs=1)
    assert np.abs(pictures[:, 0].astype(int) - pictures[:, 1]).max() <= 1
    window, mask = batch.inputs["sensors"]
    assert mask.all() and batch.presence.all()
    yaw = prepared.streams["gyro"].channels[0]  # type: ignore[union-attr]
    assert window[:, :, 0] * yaw.std + yaw.mean == pytest.approx(np.add.outer(range(4), range(4)), abs=1e-4)


def test_two_cameras_from_files_to_a_bundle_that_decides(recipe: Recipe, tmp_path: Path) -> None:
    write(tmp_path, 16, "npy")
    write(tmp_path, 4, "npy", "val")
    prepared = prepare(recipe, tmp_path, tmp_path / "work")
    trained = train(recipe, "", prepared, Console(quiet=True))
    save(recipe, trained, prepared, tmp_path / "out")
    export(recipe, trained, tmp_path / "out")
    pipeline = Pipeline(write_trained(recipe, trained.record, tmp_path / "out", tmp_path / "bundle"))
    both = {name: np.full((24, 32, 3), 90, np.uint8) for name in ("camera.front", "camera.rear")}
    outcome = pipeline.predict({**both, "gyro": {"yaw": 1.0, "roll": 0.0}})
    assert outcome.verdict.source == "model" and outcome.verdict.label in recipe.labels
    pipeline.close()


def test_sensors_of_different_rates_are_one_stream_for_an_encoder(recipe: Recipe, tmp_path: Path) -> None:
    """The one that measures seldom is held, as the device holds it, and masked where its last value is too old."""
    seldom = [{"yaw": float(step)} | ({"roll": 7.0} if step == 1 else {}) for step in range(4)]
    old = [{"yaw": float(step)} | ({"roll": 7.0} if step == 1 else {}) for step in range(14)]
    for split in ("train", "val"):
        write(tmp_path, 4, "list", split)
        file = tmp_path / split / "samples.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[0]["turning"], rows[1]["turning"] = seldom, old
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(recipe, tmp_path, tmp_path / "work")
    window, mask = prepared.val[0].inputs["sensors"]
    assert mask[0, :, 0].tolist() == [1.0] * 4 == mask[1, :, 0].tolist()
    assert mask[0, :, 1].tolist() == [0.0, 1.0, 1.0, 1.0], "from when it was measured on"
    assert mask[1, :, 1].tolist() == [1.0, 1.0, 0.0, 0.0], "until it is older than max_age_ms"
    assert len(set(window[0, 1:, 1].tolist())) == 1


TWO = """
[streams.room]
kind = "sensors"
rate_hz = 1.0
max_age_ms = 1000.0
channels = [
  { name = "lux", unit = "lx", minimum = 0.0, maximum = 1000.0 },
  { name = "noise", unit = "V", minimum = 0.0, maximum = 5.0 },
  { name = "people", unit = "1", minimum = 0.0, maximum = 9.0 },
]
"""
ENCODERS = """[[model.sensors]]
stream = "gyro"
kind = "gru"
width = 6
[[model.sensors]]
stream = "room"
width = 5
"""


def with_room(path: Path, encoders: str = ENCODERS) -> Recipe:
    """The recipe with a second stream of sensors, of another window, and an encoder for each."""
    text = RECIPE.replace("[decision]", f"{TWO}[decision]")
    path.write_text(text.replace('[model.sensors]\nstream = "gyro"\nwidth = 8\n', encoders))
    found = load_recipe(path)[0]
    assert isinstance(found, Recipe)
    return found


def test_two_streams_of_sensors_have_an_encoder_each_from_files_to_decisions(tmp_path: Path) -> None:
    recipe = with_room(tmp_path / "two.toml")
    data = tmp_path / "data"
    for split, rows in (("train", 16), ("val", 6)):
        write(data, rows, "list", split)
        file = data / split / "samples.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for number, line in enumerate(lines):
            line["sensors"] = {"lux": 100.0 + number, "noise": 0.5}
        lines[0]["sensors"]["people"] = 3.0
        lines[1]["sensors"] = lines[2]["turning"] = None
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recipe.modalities == ("camera.front", "camera.rear", "gyro", "room")
    prepared = prepare(recipe, data, tmp_path / "work")
    batch = prepared.val[0]
    assert batch.inputs["sensors_gyro"][0].shape == (6, 4, 2) and batch.inputs["sensors_room"][0].shape == (6, 1, 3)
    assert batch.presence[:, 2].tolist() == [1, 1, 0, 1, 1, 1] and batch.presence[:, 3].tolist() == [1, 0, 1, 1, 1, 1]
    window, mask = batch.inputs["sensors_room"]
    lux = prepared.streams["room"].channels[0]  # type: ignore[union-attr]
    assert window[3, 0, 0] * lux.std + lux.mean == pytest.approx(103.0, abs=1e-3)
    assert mask[0, 0].tolist() == [1, 1, 1] and mask[3, 0].tolist() == [1, 1, 0]

    trained = train(recipe, "", prepared, Console(quiet=True))
    save(recipe, trained, prepared, tmp_path / "out")
    equality = export(recipe, trained, tmp_path / "out")
    assert set(equality.stage_against_torch) == {"vision", "sensors_gyro", "sensors_room", "fusion"}
    bundle = write_trained(recipe, trained.record, tmp_path / "out", tmp_path / "bundle")
    whole = compose_monolith(stage_graphs(bundle))
    (tmp_path / "whole").mkdir()
    pipelines = [
        Pipeline(bundle),
        Pipeline(
            open_bundle(monolith_bundle(bundle, whole.SerializeToString(), tmp_path / "whole/m"), allow_unsigned=True)
        ),
    ]
    moment: dict[str, Any] = {name: np.full((24, 32, 3), 90, np.uint8) for name in ("camera.front", "camera.rear")}
    moment |= {"gyro": {"yaw": 1.0, "roll": 0.0}, "room": {"lux": 300.0}}
    try:
        shares = []
        for left in ({}, {"gyro"}, {"room"}, {"room", "gyro"}):
            given = {name: value for name, value in moment.items() if name not in left}
            staged, at_once = (pipeline.predict(given) for pipeline in pipelines)
            assert staged.verdict.source == "model"
            assert {name for name, part in staged.aligned.slices.items() if not part.present} == set(left)
            assert dict(staged.verdict.probabilities) == pytest.approx(dict(at_once.verdict.probabilities), abs=1e-5)
            shares.append(staged.verdict.probabilities["moving"])
        assert len({round(share, 9) for share in shares}) == 4, "each stream counts for something"
        staged_one = pipelines[0]
        for stream, values in (("gyro", {"yaw": 1.0}), ("room", {"lux": 300.0})):
            staged_one.add(Sample(stream, 0, 0, values))
        ran = staged_one.decide(0, 0).inference.stage_ns
        assert ran["sensors_gyro"] > 0 and ran["sensors_room"] > 0
        staged_one.add(Sample("room", 1, 0, {"lux": 20.0}))
        ran = staged_one.decide(0, 0).inference.stage_ns
        assert ran["sensors_gyro"] == 0 < ran["sensors_room"], "each runs when its own stream has something new"
    finally:
        for pipeline in pipelines:
            pipeline.close()


def test_one_of_several_encoders_alone_keeps_its_stage_and_what_is_mirrored_of_it(tmp_path: Path) -> None:
    recipe = with_room(tmp_path / "two.toml")
    mirror = MirrorRecipe(channels=("yaw", "people"))
    augment = msgspec.structs.replace(recipe.train.augment, mirror=mirror)
    recipe = msgspec.structs.replace(recipe, train=msgspec.structs.replace(recipe.train, augment=augment))
    room = alone(recipe, "sensors_room")
    assert list(room.model.encoders) == ["sensors_room"] and room.modalities == ("room",)
    assert set(room.streams) == {"room", "camera.front"}, "the trigger stays"
    assert room.train.augment.mirror is not None and room.train.augment.mirror.channels == ("people",)
    assert list(alone(recipe, "vision").model.encoders) == ["vision"]
    read_again = msgspec.convert(msgspec.to_builtins(recipe), Recipe)
    assert read_again.model == recipe.model


@pytest.mark.parametrize(
    ("encoders", "expected"),
    [
        (ENCODERS.replace('"room"', '"gyro"'), "must read a stream each"),
        (ENCODERS.replace('"room"', '"camera.front"'), "reads the stream 'camera.front', which must be a SensorStream"),
    ],
)
def test_encoders_of_one_stream_or_of_another_kind_are_refused(tmp_path: Path, encoders: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        with_room(tmp_path / "two.toml", encoders)


@pytest.mark.parametrize(
    ("turning", "expected"),
    [
        ("train/gone.csv", "no such file"),
        ("train/flat.npy", r"numbers \[steps, 2\] are wanted"),
        ("train/words.npy", "is no NPY file"),
        ("train/back.csv", "t_s goes backwards"),
        ("train/text.csv", r"turning\.yaw is 'fast'"),
        ([1.0, 2.0], "a window is a list of readings"),
    ],
)
def test_a_window_that_is_none_is_one_line(recipe: Recipe, tmp_path: Path, turning: object, expected: str) -> None:
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train/flat.npy", np.zeros(8))
    (tmp_path / "train/words.npy").write_bytes(b"yaw")
    (tmp_path / "train/back.csv").write_text("t_s,yaw\n1,0\n0,0\n")
    (tmp_path / "train/text.csv").write_text("t_s,yaw\n0,fast\n1,2\n")
    row = {"id": "a", "label": "still", "turning": turning}
    (tmp_path / "train/samples.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=expected) as caught:
        list(read(tmp_path, "train", recipe.streams, recipe.dataset))
    assert "\n" not in str(caught.value)


def test_streams_that_share_a_field_must_say_where_they_are(recipe: Recipe, tmp_path: Path) -> None:
    write(tmp_path, 1, "list")
    plain = msgspec.structs.replace(recipe.dataset, fields={})
    with pytest.raises(UserError, match=r"'image' of a row feeds one stream.*dataset\.fields"):
        list(read(tmp_path, "train", recipe.streams, plain))
    unknown = msgspec.structs.replace(recipe.dataset, fields={"camera.left": "left"})
    with pytest.raises(UserError, match="names 'camera.left'"):
        list(read(tmp_path, "train", recipe.streams, unknown))


def test_few_numbers_are_kept_whole_and_many_evenly() -> None:
    few, many = Thinned(100), Thinned(100)
    for number in range(10):
        few.put(np.full(10, number))
    for number in range(1000):
        many.put(np.full(10, number))
    assert few.values().tolist() == [number for number in range(10) for _ in range(10)]
    kept = np.unique(many.values())
    assert 4 <= len(kept) <= 10 and len(set(np.diff(kept))) == 1
