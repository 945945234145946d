"""The front camera: draws what the car sees, 640 x 360 BGR, with OpenCV alone.

Ground first (roads, junctions, markings), haze over it by row, then everything that stands up, far to near.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.world import props
from edge_runtime.world.expert import CONDITIONS, Condition
from edge_runtime.world.lens import EYE_M, FOCAL, HEIGHT, SHIFT, WIDTH, Floats, Lens
from edge_runtime.world.props import LOOKS, Look
from edge_runtime.world.scenery import build_scenery
from edge_runtime.world.simulation import Simulation
from edge_runtime.world.town import HALF_ROAD, LANE_WIDTH, Road, Town

Image = NDArray[np.uint8]

HORIZON = 172
CAMERA_AHEAD = 0.6
"""Metres from the car's middle to its camera."""
_SIGHT = 110.0
_DASH, _DASH_EVERY = 3.0, 8.0
_PAVEMENT = 2.2
_GRAIN: Image = np.full((HEIGHT, WIDTH, 3), 12, np.uint8)
"""Mean of the sensor noise, taken off again."""
_SPARE = 8
"""Rows by which the backdrop is longer than the picture at either end."""


JPEG_QUALITY = 80


def to_jpeg(image: Image) -> bytes:
    """What the camera sends."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


class View:
    """Draws one simulation's pictures. Keeps buffers: single-threaded, one per thread."""

    def __init__(self, town: Town, seed: int) -> None:
        self._town = town
        self._roads = [_Strips(road) for road in town.roads]
        self._areas = [(area, np.array(centre)) for area, centre in zip(town.areas, town.centres, strict=True)]
        self._lines = _stop_lines(town)
        self._props = props.Props(town, build_scenery(town, seed))
        rng = np.random.default_rng([seed, 12])
        self._grain: Image = np.clip(rng.normal(12, 4, (HEIGHT + 64, WIDTH + 64, 3)), 0, 24).astype(np.uint8)
        self._rng = rng
        self._backdrop = {name: _backdrop(LOOKS[name], rng) for name in CONDITIONS}
        self._haze = {name: _haze(LOOKS[name]) for name in CONDITIONS}

    def draw(self, simulation: Simulation) -> Image:
        """[360, 640, 3] uint8 BGR, a new array."""
        condition: Condition = simulation.condition
        look = LOOKS[condition]
        pose = simulation.car.pose()
        # The nose dips when braking.
        horizon = HORIZON - max(-6.0, min(6.0, pose.accel * 1.2))
        lens = Lens(
            pose.x + CAMERA_AHEAD * math.cos(pose.heading),
            pose.y + CAMERA_AHEAD * math.sin(pose.heading),
            pose.heading,
            horizon,
        )
        top = _SPARE - (round(horizon) - HORIZON)
        image = self._backdrop[condition][top : top + HEIGHT].copy()
        self._ground(image, lens, look)
        if condition == "fog":
            image = _fade(image, *self._haze[condition])
        self._props.draw(image, lens, look, simulation)
        return self._noise(image)

    def _ground(self, image: Image, lens: Lens, look: Look) -> None:
        sight = min(_SIGHT, look.sight * 3.0)
        visible = [road for road in self._roads if road.near(lens, sight)]
        areas = []
        for area, centre in self._areas:
            where = lens.camera(centre)
            if -15.0 < where[2] < sight and abs(where[0]) < where[2] + 25.0:
                areas.append(area)
        for road in visible:
            _fill(
                image,
                lens,
                [road.strip(lens, -HALF_ROAD - _PAVEMENT, HALF_ROAD + _PAVEMENT)],
                look.shade((140, 146, 148)),
            )
        for area in areas:
            middle = area.mean(axis=0)
            _fill(image, lens, [lens.camera(middle + (area - middle) * 1.12)], look.shade((140, 146, 148)))
        asphalt = [road.strip(lens, -HALF_ROAD, HALF_ROAD) for road in visible]
        for points in asphalt:
            _fill(image, lens, [points], look.shade((72, 70, 68)))
        for area in areas:
            _fill(image, lens, [lens.camera(area)], look.shade((80, 78, 76)))
        white = look.shade((225, 228, 230))
        for road in visible:
            edges = [road.strip(lens, side - 0.08, side + 0.08) for side in (-LANE_WIDTH, LANE_WIDTH)]
            _fill(image, lens, edges, look.shade((190, 192, 194)))
            _quads(image, lens, road.dashes, white)
        _quads(image, lens, self._lines, white)

    def _noise(self, image: Image) -> Image:
        dy, dx = self._rng.integers(0, 64, 2).tolist()
        grain = self._grain[dy : dy + HEIGHT, dx : dx + WIDTH]
        return np.asarray(cv2.subtract(cv2.add(image, grain), _GRAIN), np.uint8)


class _Strips:
    """One road's points, ready to be offset and projected."""

    def __init__(self, road: Road) -> None:
        self._points, self._normals = road.path.points[::4], road.path.normals[::4]
        if (len(road.path.points) - 1) % 4:
            self._points = np.concatenate([self._points, road.path.points[-1:]])
            self._normals = np.concatenate([self._normals, road.path.normals[-1:]])
        self._part: slice = slice(0, 0)
        starts = np.arange(2.0, road.path.length - _DASH - 1.0, _DASH_EVERY)
        self.dashes = np.array([_quad(road.path.at(s), road.path.at(s + _DASH), 0.09) for s in starts])

    def near(self, lens: Lens, sight: float) -> bool:
        """Whether any of the road is in sight; remembers which part, for `strip`."""
        where = lens.camera(self._points)
        seen = np.flatnonzero((where[:, 2] > -8.0) & (where[:, 2] < sight) & (np.abs(where[:, 0]) < where[:, 2] + 22.0))
        if len(seen) < 2:
            return False
        self._part = slice(int(seen[0]), int(seen[-1]) + 1)
        return True

    def strip(self, lens: Lens, right: float, left: float) -> Floats:
        """The part in sight between two offsets to the left (m), as a polygon [N, 3] in camera metres."""
        points, normals = self._points[self._part], self._normals[self._part]
        return lens.camera(np.concatenate([points + right * normals, (points + left * normals)[::-1]]))


def _quad(start: tuple[float, float, float], end: tuple[float, float, float], half: float) -> Floats:
    (x0, y0, _), (x1, y1, heading) = start, end
    side = half * np.array([-math.sin(heading), math.cos(heading)])
    first, last = np.array([x0, y0]), np.array([x1, y1])
    return np.array([first - side, last - side, last + side, first + side])


def _stop_lines(town: Town) -> Floats:
    rows = []
    for lane in town.lanes:
        path = town.segments[lane].path
        rows.append(_quad(path.at(path.length - 0.25), path.at(path.length + 0.35), LANE_WIDTH / 2 - 0.1))
    return np.array(rows)


def _fill(image: Image, lens: Lens, polygons: list[Floats], colour: tuple[int, int, int]) -> None:
    for points in polygons:
        flat = lens.polygon(points)
        if flat is not None:
            cv2.fillPoly(image, [flat], colour, cv2.LINE_8, SHIFT)


def _quads(image: Image, lens: Lens, quads: Floats, colour: tuple[int, int, int]) -> None:
    """[N, 4, 2] small quadrilaterals on the ground; those near enough to be seen."""
    points = lens.camera(quads)
    seen = (
        (points[..., 2].min(axis=1) > 0.8) & (points[:, 0, 2] < 70.0) & (np.abs(points[:, 0, 0]) < points[:, 0, 2] + 4)
    )
    if seen.any():
        cv2.fillPoly(image, list(lens.pixels(points[seen])), colour, cv2.LINE_AA, SHIFT)


def _backdrop(look: Look, rng: np.random.Generator) -> Image:
    """Sky and bare ground, a little longer than the picture at both ends so that it can be shifted."""
    rows = np.arange(-_SPARE, HEIGHT + _SPARE)[:, None, None].astype(np.float64)
    up = np.clip((HORIZON - rows) / HORIZON, 0.0, 1.0)
    sky = np.array(look.sky_low) * (1 - up) + np.array(look.sky_high) * up
    grass = np.array(look.shade((70, 128, 98)))
    image = np.where(rows < HORIZON, sky, grass) * np.ones((1, WIDTH, 1))
    # Blotches grow towards the camera, as grass does.
    for row in range(HORIZON + 2, HEIGHT + _SPARE):
        size = max(1, (row - HORIZON) // 8)
        image[_SPARE + row] += np.repeat(rng.normal(0, 5, (WIDTH // size + 1, 1)), size, axis=0)[:WIDTH]
    return np.clip(image, 0, 255).astype(np.uint8)


def _haze(look: Look) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """By row: what of the ground is left, and the haze's own light to add. [360, 640, 3] each."""
    below = np.maximum(np.arange(HEIGHT) - HORIZON, 0.5)
    left = np.exp(-(EYE_M * FOCAL / below) / look.sight)
    left[:HORIZON] = 0.0
    table = np.broadcast_to(left[:, None, None], (HEIGHT, WIDTH, 3))
    return np.ascontiguousarray(table, np.float32), np.ascontiguousarray(
        (1 - table) * np.array(look.sky_low), np.float32
    )


def _fade(image: Image, left: NDArray[np.float32], light: NDArray[np.float32]) -> Image:
    scaled = cv2.multiply(image, left, dtype=cv2.CV_32F)
    return np.asarray(cv2.add(scaled, light, dtype=cv2.CV_8U), np.uint8)
