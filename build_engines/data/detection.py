"""The layout of detection data: pictures (JPEG, PNG, BMP, WebP) and what is in them, as COCO's JSON or as text.

COCO JSON (https://cocodataset.org/#format-data): `DATA/<split>/_annotations.coco.json` beside its pictures, or
`DATA/annotations/instances_<split>.json` (or `<split>.json`) with the pictures in `DATA/<split>/` or
`DATA/images/<split>/`. Text, as YOLO's tools write it: `DATA/labels/<split>/NAME.txt` for
`DATA/images/<split>/NAME.jpg` (or `DATA/<split>/labels/` and `DATA/<split>/images/`), a line a thing: its class's
number, and its middle, width and height in shares of the picture. Numbers are named by `names` in `DATA/data.yaml`, or
the lines of `DATA/classes.txt`.

Every picture is a group of its own. Classes are renamed by `dataset.values`, or left out there by "".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from build_engines.data.datasets import Prepared, read_file
from build_engines.modalities.vision.files import read_image
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe
from calibration.moments import LabelledSet, Later, RawMessage, TrueObject
from edge_runtime.capture.picture_files import picture_files
from edge_runtime.errors import UserError
from edge_runtime.heads.detection import NOTHING
from edge_runtime.streams import CameraStream, StreamSpec, streams_of

MARKER = "_annotations.coco.json"
AT_NS = 1_000_000_000
Things = list[TrueObject]


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every picture of `split`, by name. Its label, by which calibration spreads its choice, is the rarest class in it.
    Raises UserError.
    """
    cameras = list(streams_of(streams, CameraStream))
    if len(cameras) != 1:
        raise UserError(f"the detection layout feeds one camera; the bundle has {len(cameras)}")
    pictures = {
        file: _renamed(things, dataset)
        for file, things in sorted(_pictures(data, split).items())
        if file.relative_to(data).as_posix() not in dataset.exclude
    }
    often = Counter(thing.label for things in pictures.values() for thing in things)
    for file, things in pictures.items():
        name = file.relative_to(data).as_posix()
        label = min((thing.label for thing in things), key=lambda label: (often[label], label), default=NOTHING)
        yield LabelledSet(
            name, name, AT_NS, label, (RawMessage(cameras[0], AT_NS, Later(file, read_image)),), objects=tuple(things)
        )


def prepare(recipe: Recipe, data: Path, work: Path) -> Prepared:
    """Raises UserError: detectors are not trained here."""
    raise UserError("layout = 'detection' is for detectors that were trained elsewhere ([onnx], docs/detections.md)")


def _renamed(things: Things, dataset: DatasetRecipe) -> Things:
    named = [TrueObject(dataset.values.get(thing.label, thing.label), thing.box, thing.crowd) for thing in things]
    return [thing for thing in named if thing.label]


def _pictures(data: Path, split: str) -> dict[Path, Things]:
    for file, folders in (
        (data / split / MARKER, (data / split,)),
        (data / "annotations" / f"instances_{split}.json", (data / split, data / "images" / split)),
        (data / "annotations" / f"{split}.json", (data / split, data / "images" / split)),
    ):
        if file.is_file():
            return _coco(file, folders)
    for images, labels in (
        (data / "images" / split, data / "labels" / split),
        (data / split / "images", data / split / "labels"),
    ):
        if images.is_dir() and labels.is_dir():
            return _text(data, images, labels)
    raise UserError(
        f"data {data}: split {split!r} has neither {split}/{MARKER}, annotations/instances_{split}.json nor "
        f"images/{split} with labels/{split}; check --data and the split's name"
    )


def _coco(file: Path, folders: tuple[Path, ...]) -> dict[Path, Things]:
    def wrong(what: str) -> NoReturn:
        raise UserError(f"data {file}: {what}; it must be COCO's JSON: images, annotations and categories")

    try:
        document = json.loads(read_file(file))
    except ValueError as error:
        wrong(f"is no JSON ({error})")
    try:
        names = {row["id"]: str(row["name"]) for row in document["categories"]}
        sizes = {row["id"]: (float(row["width"]), float(row["height"])) for row in document["images"]}
        files = {row["id"]: str(row["file_name"]) for row in document["images"]}
        found: dict[Any, Things] = {number: [] for number in files}
        for row in document["annotations"]:
            left, top, width, height = map(float, row["bbox"])
            across, down = sizes[row["image_id"]]
            box = (left / across, top / down, (left + width) / across, (top + height) / down)
            thing = TrueObject(names[row["category_id"]], box, bool(row.get("iscrowd", 0)))
            if width > 0 and height > 0:
                found[row["image_id"]].append(_checked(thing, f"data {file}: annotation {row.get('id')}"))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        wrong(f"{type(error).__name__} {error}")
    pictures = {}
    for number, name in files.items():
        there = [folder / name for folder in folders if (folder / name).is_file()]
        if ".." in Path(name).parts or name.startswith("/"):
            wrong(f"the picture {name!r} lies outside its folder")
        if not there:
            raise UserError(f"data {file}: the picture {name} is not in {' or '.join(map(str, folders))}")
        pictures[there[0]] = found[number]
    return pictures


def _text(data: Path, images: Path, labels: Path) -> dict[Path, Things]:
    """A picture without a file has nothing in it, as YOLO's tools have it."""
    names = _names(data)
    pictures: dict[Path, Things] = {}
    for picture in picture_files(images):
        file = labels / f"{picture.stem}.txt"
        pictures[picture] = list(_lines(file, names)) if file.is_file() else []
    if not pictures:
        raise UserError(f"data {images}: holds no pictures; check --data and the split's name")
    return pictures


def _lines(file: Path, names: Mapping[str, str]) -> Iterator[TrueObject]:
    for count, line in enumerate(read_file(file).decode("utf-8-sig", "replace").splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        where = f"data {file}, line {count}"
        try:
            number, x, y, width, height = int(cells[0]), *map(float, cells[1:])
        except (ValueError, TypeError):
            raise UserError(f"{where}: {line[:60]!r} is no class's number with x, y, width and height") from None
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        yield _checked(TrueObject(names.get(str(number), str(number)), box), where)


def _names(data: Path) -> dict[str, str]:
    """Class's number to its name; empty where nothing tells."""
    plain = data / "classes.txt"
    if plain.is_file():
        lines = read_file(plain).decode("utf-8-sig", "replace").splitlines()
        return {str(number): line.strip() for number, line in enumerate(lines) if line.strip()}
    file = data / "data.yaml"
    if not file.is_file():
        return {}
    import yaml

    try:
        names = yaml.safe_load(read_file(file))["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {str(number): str(name) for number, name in pairs}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"data {file}: has no list `names` of the classes ({type(error).__name__})") from None


def _checked(thing: TrueObject, where: str) -> TrueObject:
    """`thing`, cut off at the picture's edges. Raises UserError for a box that lies beyond them."""
    left, top, right, bottom = (min(1.0, max(0.0, side)) for side in thing.box)
    if not (max(map(abs, thing.box)) < 2 and right > left and bottom > top):
        shown = ", ".join(f"{side:.3g}" for side in thing.box)
        raise UserError(f"{where}: the box {shown} (in shares of the picture) is not in the picture")
    return TrueObject(thing.label, (left, top, right, bottom), thing.crowd)
