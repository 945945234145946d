"""Drawn pictures in the layout of image classification: as many as one likes, to see what a build of that size takes.

A ball, a box or a cone of random size and colour somewhere before a random background.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.spread import once_each, spread

LABELS = ("ball", "box", "cone")


def picture(label: str, side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[side, side, 3] uint8 BGR."""
    coarse = rng.integers(0, 200, (4, 4, 3), np.uint8)
    image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    colour = tuple(int(value) for value in rng.integers(60, 256, 3))
    size = int(rng.uniform(0.1, 0.25) * side)
    x, y = (int(value) for value in rng.integers(size, side - size, 2))
    if label == "ball":
        cv2.circle(image, (x, y), size, colour, -1)
    elif label == "box":
        cv2.rectangle(image, (x - size, y - size), (x + size, y + size), colour, -1)
    else:
        corners = np.array([(x, y - size), (x - size, y + size), (x + size, y + size)])
        cv2.fillPoly(image, [corners], colour)
    return np.asarray(cv2.add(image, rng.integers(0, 24, image.shape, np.uint8)), np.uint8)


def _write(folder: Path, side: int, seed: int, number: int) -> None:
    label = LABELS[number % len(LABELS)]
    image = picture(label, side, np.random.default_rng([seed, number]))
    cv2.imwrite(str(folder / label / f"{number:06d}.jpg"), image)


def make(folder: Path, split: str, count: int, side: int, seed: int) -> None:
    """`folder`/`split`/<label>/: `count` pictures of `side` pixels, by all cores."""
    for label in LABELS:
        (folder / split / label).mkdir(parents=True, exist_ok=True)
    work = partial(once_each, partial(_write, folder / split, side, seed))
    for _ in spread(work, range(count), piece=64):
        pass


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--train", default=1000, show_default=True, type=click.IntRange(min=30), help="Pictures to train with.")
@click.option("--val", default=200, show_default=True, type=click.IntRange(min=30), help="Pictures to evaluate.")
@click.option("--side", default=224, show_default=True, type=click.IntRange(min=32), help="Width and height.")
@click.option("--seed", default=1, show_default=True, help="Other seeds draw others.")
def main(folder: Path, train: int, val: int, side: int, seed: int) -> None:
    """Make FOLDER/train and FOLDER/val: balls, boxes and cones."""
    from build_engines.data import drawn  # noqa: PLW0406  # under the name by which workers find it

    drawn.make(folder, "train", train, side, 2 * seed)
    drawn.make(folder, "val", val, side, 2 * seed + 1)


if __name__ == "__main__":
    main()
