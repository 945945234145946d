"""Detection data as people have it: COCO's JSON and YOLO's text, told the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from build_engines.data.detection import read
from build_engines.recipe import DatasetRecipe
from calibration.moments import TrueObject, admitted
from edge_runtime.errors import UserError
from edge_runtime.messages import Frame
from edge_runtime.streams import CameraStream, StreamSpec

STREAMS: dict[str, StreamSpec] = {"camera.front": CameraStream(32, 24, 30, 100, fit="letterbox")}
NAMES = ("person", "traffic light")
THINGS: dict[str, list[tuple[int, tuple[float, float, float, float]]]] = {
    "a.jpg": [(0, (10, 20, 40, 60)), (1, (50, 10, 20, 30))],
    "b.png": [(1, (0, 0, 100, 80))],
    "c.PNG": [],
}
"""Number of the class; left, top, width, height in pixels of 100 x 80."""


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(THINGS):
        image = np.full((80, 100, 3), 40 * number, np.uint8)
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix.lower(), image)[1].tobytes())


def document() -> dict[str, Any]:
    images = [{"id": 7 + n, "file_name": name, "width": 100, "height": 80} for n, name in enumerate(THINGS)]
    rows = [(7 + n, label, box) for n, things in enumerate(THINGS.values()) for label, box in things]
    annotations = [
        {"id": n, "image_id": image, "category_id": 3 * label + 1, "bbox": box, "iscrowd": int(n == 2)}
        for n, (image, label, box) in enumerate(rows)
    ]
    categories = [{"id": 3 * n + 1, "name": name} for n, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(annotations: str, folder: str) -> Callable[[Path], None]:
    def write(data: Path) -> None:
        pictures(data / folder)
        (data / annotations).parent.mkdir(exist_ok=True)
        (data / annotations).write_text(json.dumps(document()))

    return write


def text(images: str, labels: str, names: str) -> Callable[[Path], None]:
    def write(data: Path) -> None:
        pictures(data / images)
        (data / labels).mkdir(parents=True)
        for name, things in THINGS.items():
            lines = [
                f"{label} {(x + w / 2) / 100} {(y + h / 2) / 80} {w / 100} {h / 80}" for label, (x, y, w, h) in things
            ]
            if lines:
                (data / labels / f"{Path(name).stem}.txt").write_text("\n".join(lines) + "\n\n")
        if names == "classes.txt":
            (data / names).write_text("\n".join(NAMES) + "\n")
        elif names == "data.yaml":
            (data / names).write_text("train: ../train\nnames:\n  0: person\n  1: traffic light\n")
        elif names == "list":
            (data / "data.yaml").write_text("names: ['person', 'traffic light']\nnc: 2\n")

    return write


WAYS = {
    "beside": (coco("val/_annotations.coco.json", "val"), True),
    "coco": (coco("annotations/instances_val.json", "val"), True),
    "coco, images": (coco("annotations/val.json", "images/val"), True),
    "yolo": (text("images/val", "labels/val", "classes.txt"), False),
    "yolo, by split": (text("val/images", "val/labels", "data.yaml"), False),
    "yolo, list": (text("images/val", "labels/val", "list"), False),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_it_says_the_same(tmp_path: Path, way: str) -> None:
    write, crowds = WAYS[way]
    write(tmp_path)
    sets = list(read(tmp_path, "val", STREAMS))
    by_name = {Path(moment.id).name: moment for moment in sets}
    assert list(by_name) == sorted(THINGS)
    assert [thing.label for thing in by_name["a.jpg"].objects] == list(NAMES)
    np.testing.assert_allclose(by_name["a.jpg"].objects[0].box, (0.1, 0.25, 0.5, 1.0), atol=1e-12)
    assert by_name["b.png"].objects[0].crowd is crowds
    assert by_name["c.PNG"].objects == () and by_name["c.PNG"].label == "none"
    assert by_name["a.jpg"].label == "person", "the rarer of its classes"
    messages = [message for _, _, messages in admitted(STREAMS, sets) for message in messages]
    assert [frame.size for frame in messages if isinstance(frame, Frame)] == [(100, 80)] * 3


def test_classes_are_renamed_or_left_out_and_pictures_too(tmp_path: Path) -> None:
    WAYS["beside"][0](tmp_path)
    dataset = DatasetRecipe(values={"traffic light": "", "person": "human"}, exclude=("val/c.PNG",))
    sets = list(read(tmp_path, "val", STREAMS, dataset))
    assert [[thing.label for thing in moment.objects] for moment in sets] == [["human"], []]


def test_numbers_without_names_are_their_own(tmp_path: Path) -> None:
    text("images/val", "labels/val", "")(tmp_path)
    labels = {thing.label for moment in read(tmp_path, "val", STREAMS) for thing in moment.objects}
    assert labels == {"0", "1"}


def test_a_box_is_cut_off_at_the_edge(tmp_path: Path) -> None:
    text("images/val", "labels/val", "classes.txt")(tmp_path)
    (tmp_path / "labels/val/b.txt").write_text("0 0.95 0.5 0.2 0.2\n")
    boxes = [thing for moment in read(tmp_path, "val", STREAMS) for thing in moment.objects]
    assert boxes[-1] == TrueObject("person", (pytest.approx(0.85), 0.4, 1.0, 0.6))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 0.5 0.5 0.2", "is no class's number with x, y, width and height"),
        ("person 0.5 0.5 0.2 0.2", "is no class's number"),
        ("0 320 240 50 50", r"line 1: the box 295, 215, 345, 265 \(in shares of the picture\) is not in the picture"),
        ("0 0.5 0.5 0 0.1", "is not in the picture"),
        ("0 nan 0.5 0.1 0.1", "is not in the picture"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, why: str) -> None:
    text("images/val", "labels/val", "classes.txt")(tmp_path)
    (tmp_path / "labels/val/b.txt").write_text(line)
    with pytest.raises(UserError, match=why):
        list(read(tmp_path, "val", STREAMS))


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no images": (lambda d: d.pop("images"), "KeyError 'images'"),
    "unknown category": (lambda d: d["annotations"][0].update(category_id=99), "KeyError 99"),
    "box of three": (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "ValueError"),
    "size of 0": (lambda d: d["images"][0].update(width=0), "ZeroDivisionError"),
    "far away": (lambda d: d["annotations"][0].update(bbox=[500, 2, 30, 4]), "is not in the picture"),
    "missing": (lambda d: d["images"][0].update(file_name="z.jpg"), "the picture z.jpg is not in"),
    "outside": (lambda d: d["images"][0].update(file_name="../val/a.jpg"), "lies outside its folder"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_json_that_is_not_coco_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    change, why = BROKEN[what]
    WAYS["beside"][0](tmp_path)
    broken = document()
    change(broken)
    (tmp_path / "val/_annotations.coco.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=why) as caught:
        list(read(tmp_path, "val", STREAMS))
    assert "\n" not in str(caught.value)


def test_what_is_no_such_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split 'val' has neither val/_annotations.coco.json, annotations/"):
        list(read(tmp_path, "val", STREAMS))
