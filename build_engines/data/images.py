"""The layout of image classification: a folder per label with its pictures, `DATA/<split>/<label>/*.jpg`
(or PNG, BMP, WebP, in small letters or capitals).

One camera decides: what is fused with it needs the layout `samples`. Every picture is a group of its own: where several
are of one moment, or one place, `samples` can say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from build_engines.data.datasets import Prepared, answer_names, digest_of
from build_engines.data.mirror import Mirror
from build_engines.data.paired import PairedSource, build_arrays
from build_engines.data.samples import with_mined
from build_engines.modalities.vision.files import read_image
from build_engines.recipe import PLAIN_DATASET, DatasetRecipe, Recipe
from calibration.moments import LabelledSet, Later, RawMessage
from edge_runtime.capture.picture_files import PICTURES, picture_files
from edge_runtime.errors import UserError
from edge_runtime.streams import CameraStream, StreamSpec, streams_of

MARKER = "*/*.[jpbwJPBW][pnmePNME][gpbeGPBE]*"
AT_NS = 1_000_000_000


def read(
    data: Path, split: str, streams: Mapping[str, StreamSpec], dataset: DatasetRecipe = PLAIN_DATASET
) -> Iterator[LabelledSet]:
    """Every picture of `split` as a group of its own, in the order of labels and names."""
    cameras = list(streams_of(streams, CameraStream))
    if len(cameras) != 1:
        raise UserError(f"the images layout feeds one camera; the bundle has {len(cameras)}")
    for path in _files(data, split):
        name = path.relative_to(data).as_posix()
        yield LabelledSet(
            name, name, AT_NS, path.parent.name, (RawMessage(cameras[0], AT_NS, Later(path, read_image)),)
        )


def _files(data: Path, split: str) -> list[Path]:
    """The pictures of `split`, each in the folder of its label, in order. Raises UserError where there is none."""
    folders = sorted(folder for folder in (data / split).glob("[!.]*") if folder.is_dir())
    files = [file for folder in folders if folder.name != "__MACOSX" for file in picture_files(folder)]
    if not files:
        raise UserError(
            f"data {data}: no pictures {split}/<label>/*.jpg (or {', '.join(PICTURES[2:])}, in capitals too); check "
            "--data and the split's name"
        )
    return files


def prepare(recipe: Recipe, data: Path, work: Path) -> Prepared:
    """Arrays of the training split and of the one that is evaluated. Raises UserError, for a folder that is no label of
    the recipe too.
    """
    streams, names = dict(recipe.streams), answer_names(recipe)
    for split in ("train", recipe.evaluate_split):
        if unknown := sorted({file.parent.name for file in _files(data, split)} - set(names)):
            raise UserError(f"data {data}: {split}/{unknown[0]} is no label of the recipe; they are {', '.join(names)}")
    mirror = recipe.train.augment.mirror
    change = None if mirror is None else Mirror(mirror, {}, names, {})
    arrays = {
        split: build_arrays(recipe, streams, partial(read, data, split, streams), data, split, work)
        for split in ("train", recipe.evaluate_split)
    }
    source = PairedSource(recipe, None, arrays["train"], {}, change=change)
    plain = PairedSource(recipe, None, arrays[recipe.evaluate_split], {}, training=False)
    prepared = Prepared(streams, None, source, plain.in_order(), digest_of(data / "train"), folds=source.folds)
    return with_mined(recipe, prepared, work)
