"""Folders of pictures as cameras, phones and other systems leave them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.data import images
from build_engines.recipe import Recipe, load_recipe
from calibration.moments import admitted
from edge_runtime.errors import UserError
from edge_runtime.messages import Frame
from edge_runtime.streams import CameraStream, StreamSpec

STREAMS: dict[str, StreamSpec] = {
    "camera.front": CameraStream(rate_hz=5.0, max_age_ms=500.0, required=True, width=32, height=24)
}


def _picture(path: Path, seed: int) -> NDArray[np.uint8]:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    done, data = cv2.imencode(path.suffix.lower(), image)
    assert done
    path.write_bytes(data.tobytes())
    return image


def test_capitals_and_other_formats_are_read_and_other_systems_files_are_not(tmp_path: Path) -> None:
    train = tmp_path / "train"
    png = _picture(train / "door" / "B.PNG", 1)
    _picture(train / "door" / "A.JPG", 2)
    _picture(train / "door" / "d.jpeg", 3)
    bmp = _picture(train / "Gate" / "c.Bmp", 4)
    (train / "door" / "._A.JPG").write_bytes(b"\x00\x05\x16\x07 resource fork")
    (train / "door" / "Thumbs.db").write_bytes(b"thumbnails")
    _picture(train / "__MACOSX" / "x.jpg", 5)
    _picture(train / ".cache" / "y.jpg", 6)
    moments = list(images.read(tmp_path, "train", STREAMS))
    assert [(one.id, one.label) for one in moments] == [
        ("train/Gate/c.Bmp", "Gate"), ("train/door/A.JPG", "door"), ("train/door/B.PNG", "door"),
        ("train/door/d.jpeg", "door"),
    ]  # fmt: skip
    frames = {moment.id: messages for moment, _, messages in admitted(STREAMS, moments)}
    assert all(len(messages) == 1 for messages in frames.values())
    for name, image in (("train/door/B.PNG", png), ("train/Gate/c.Bmp", bmp)):
        (frame,) = frames[name]
        assert isinstance(frame, Frame)
        assert np.array_equal(frame.image, image)


def test_what_is_named_a_picture_and_is_none_is_refused_by_admission(tmp_path: Path) -> None:
    _picture(tmp_path / "train" / "door" / "a.jpg", 1)
    (tmp_path / "train" / "door" / "b.png").write_bytes(b"<html>not found</html>")
    found = {
        moment.id: len(messages) for moment, _, messages in admitted(STREAMS, images.read(tmp_path, "train", STREAMS))
    }
    assert found == {"train/door/a.jpg": 1, "train/door/b.png": 0}


def test_a_split_without_pictures_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "train" / "door").mkdir(parents=True)
    (tmp_path / "train" / "door" / "notes.txt").write_text("none")
    with pytest.raises(UserError, match=r"no pictures train/<label>/\*\.jpg \(or .*in capitals too\)"):
        list(images.read(tmp_path, "train", STREAMS))


RECIPE = """
name = "doors"
version = "1.0.0"
layout = "images"
labels = ["shut", "open"]
trigger = "camera.front"
[streams."camera.front"]
kind = "camera"
width = 32
height = 24
rate_hz = 5.0
max_age_ms = 500.0
required = true
[decision]
safe_label = "shut"
[model]
features = 8
[model.vision]
streams = ["camera.front"]
widths = [4, 8]
[model.fusion]
kind = "concat"
width = 8
[train]
epochs = 1
batch = 4
"""


def test_a_model_can_be_trained_on_folders_of_pictures_and_an_unknown_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "doors.toml").write_text(RECIPE)
    recipe, _ = load_recipe(tmp_path / "doors.toml")
    assert isinstance(recipe, Recipe)
    data = tmp_path / "data"
    pictures = {}
    for split, count in (("train", 4), ("val", 2)):
        for label in ("open", "shut"):
            for number in range(count):
                path = data / split / label / f"{number}.png"
                pictures[split, label, number] = _picture(path, len(pictures))
    prepared = images.prepare(recipe, data, tmp_path)
    order = [("val", label, number) for label in ("open", "shut") for number in range(2)]
    seen = np.concatenate([batch.inputs["vision"][0][batch.rows["vision"], 0] for batch in prepared.val])
    assert np.array_equal(seen, np.stack([pictures[key] for key in order]))
    assert [label for batch in prepared.val for label in batch.label.tolist()] == [1, 1, 0, 0]
    assert prepared.train.counts.tolist() == [4, 4]
    drawn = [label for step in prepared.train.epoch(np.random.default_rng(0)) for label in step.label.tolist()]
    assert sorted(drawn) == [0] * 4 + [1] * 4
    _picture(data / "val" / "ajar" / "0.png", 99)
    with pytest.raises(UserError, match="val/ajar is no label of the recipe; they are shut, open"):
        images.prepare(recipe, data, tmp_path)
