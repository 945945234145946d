"""Houses and trees beside the roads: nothing to decide by, but what a camera sees most of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.world.town import HALF_ROAD, JUNCTION_RADIUS, Town

_WALLS = (
    (120, 140, 165), (95, 105, 130), (150, 160, 170), (105, 120, 185), (140, 125, 110), (165, 175, 190), (90, 110, 120),
)  # fmt: skip


@dataclass(frozen=True)
class Scenery:
    """Boxes and trees as tables."""

    box_corners: NDArray[np.float64]
    """[N, 4, 2] ground corners, counter-clockwise."""
    box_heights: NDArray[np.float64]
    """[N] metres."""
    box_colours: tuple[tuple[int, int, int], ...]
    """BGR."""
    trees: NDArray[np.float64]
    """[M, 4]: x, y, trunk height, crown radius (metres)."""


def build_scenery(town: Town, seed: int) -> Scenery:
    """Houses and trees along every road of `town`, none on a road."""
    rng = np.random.default_rng([seed, 11])
    paved = np.concatenate([road.path.points[::4] for road in town.roads] + [np.array(town.centres)])
    corners: list[NDArray[np.float64]] = []
    heights: list[float] = []
    colours: list[tuple[int, int, int]] = []
    trees: list[tuple[float, float, float, float]] = []
    for road in town.roads:
        for side in (-1.0, 1.0):
            s = float(rng.uniform(4.0, 12.0))
            while s < road.path.length - 4.0:
                x, y, heading = road.path.at(s)
                along = np.array([np.cos(heading), np.sin(heading)])
                out = side * np.array([-along[1], along[0]])
                if rng.random() < 0.55:
                    width, depth = float(rng.uniform(9.0, 15.0)), float(rng.uniform(7.0, 10.0))
                    near = np.array([x, y]) + out * (HALF_ROAD + float(rng.uniform(4.0, 8.0)))
                    box = [
                        near + a * along * width / 2 + b * out * depth for a, b in ((-1, 0), (1, 0), (1, 1), (-1, 1))
                    ]
                    # Shrunk to the outline between corners too: a road may pass between two corners of a house.
                    outline = np.array(
                        [p * k + q * (1 - k) for p, q in zip(box, box[1:] + box[:1], strict=True) for k in (1.0, 0.5)]
                    )
                    if _free(outline, paved, HALF_ROAD + 2.5):
                        corners.append(np.array(box if side > 0 else box[::-1]))
                        heights.append(float(rng.uniform(4.0, 11.0)))
                        colours.append(_WALLS[int(rng.integers(len(_WALLS)))])
                    s += width + float(rng.uniform(2.0, 8.0))
                else:
                    place = np.array([x, y]) + out * (HALF_ROAD + float(rng.uniform(2.0, 5.0)))
                    if _free(place[None], paved, HALF_ROAD + 1.5) and s > JUNCTION_RADIUS:
                        size = float(rng.uniform(1.3, 2.3))
                        trees.append((float(place[0]), float(place[1]), float(rng.uniform(1.8, 2.6)), size))
                    s += float(rng.uniform(6.0, 12.0))
    return Scenery(np.array(corners), np.array(heights), tuple(colours), np.array(trees))


def _free(points: NDArray[np.float64], paved: NDArray[np.float64], clearance: float) -> bool:
    distance = np.hypot(*(points[:, None] - paved[None]).transpose(2, 0, 1))
    return bool(distance.min() > clearance)
