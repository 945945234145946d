"""The layout of image classification: a folder per label with its pictures, `DATA/<split>/<label>/*.jpg`.

For graphs that were trained elsewhere; there is nothing here to train a fused model on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from build_engines.data.datasets import Prepared, read_file
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe
from calibration.moments import LabelledSet, RawMessage
from edge_runtime.errors import UserError
from edge_runtime.streams import CameraStream, StreamSpec, streams_of

MARKER = "*/*.jp*g"
AT_NS = 1_000_000_000


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every picture of `split` as a group of its own, in the order of labels and names."""
    cameras = list(streams_of(streams, CameraStream))
    if len(cameras) != 1:
        raise UserError(f"the images layout feeds one camera; the bundle has {len(cameras)}")
    files = sorted((data / split).glob(MARKER))
    if not files:
        raise UserError(f"data {data}: no pictures {split}/<label>/*.jpg; check --data and the split's name")
    for path in files:
        name = path.relative_to(data).as_posix()
        message = RawMessage(cameras[0], AT_NS, read_file(path))
        yield LabelledSet(name, name, AT_NS, path.parent.name, (message,))


def prepare(recipe: Recipe, data: Path, work: Path) -> Prepared:
    """Refused: pictures alone are no fused model's data."""
    raise UserError(f"recipe {recipe.name}: images are for [onnx] recipes; training needs another layout")
