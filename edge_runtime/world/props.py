"""What stands up in the picture: houses, trees, vehicles, traffic lights; drawn far to near."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.world.expert import Condition
from edge_runtime.world.lens import FOCAL, SHIFT, WIDTH, Floats, Lens
from edge_runtime.world.scenery import Scenery
from edge_runtime.world.signals import Light
from edge_runtime.world.simulation import Shown, Simulation
from edge_runtime.world.town import Signal, Town

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

_ONE = 1 << SHIFT
_BODIES: tuple[Colour, ...] = (
    (40, 40, 160), (150, 80, 40), (210, 210, 210), (45, 45, 45), (60, 120, 60), (130, 130, 135), (40, 140, 190),
)  # fmt: skip
_LAMPS: tuple[tuple[Light, Colour, float], ...] = (
    ("red", (30, 30, 255), 6.1), ("amber", (0, 190, 255), 5.2), ("green", (90, 255, 40), 4.3),
)  # fmt: skip
_LAMP_RADIUS = 0.38
_VEHICLE_SIGHT_FOG = 14.0
"""In fog a vehicle farther than this is not drawn at all."""
_LAMP_SIGHT_FOG = 44.0


@dataclass(frozen=True)
class Look:
    """How a condition looks. Colours are BGR."""

    light: float
    """Factor on every colour that is lit by the sky."""
    sky_low: Colour
    sky_high: Colour
    sight: float
    """Metres over which 63 % of a thing's own colour is lost in haze."""
    glow: float
    """Strength of the halo around lamps."""

    def shade(self, colour: Colour) -> Colour:
        """A surface's colour in this light."""
        return tuple(int(part * self.light) for part in colour)  # type: ignore[return-value]

    def hazy(self, colour: Colour, metres: float) -> Colour:
        """A shaded colour seen through `metres` of air."""
        left = math.exp(-metres / self.sight)
        return tuple(  # type: ignore[return-value]
            int(part * self.light * left + air * (1 - left)) for part, air in zip(colour, self.sky_low, strict=True)
        )


LOOKS: dict[Condition, Look] = {
    "day": Look(1.0, (225, 205, 180), (205, 150, 90), 400.0, 0.25),
    "dusk": Look(0.46, (95, 95, 150), (70, 40, 35), 300.0, 0.7),
    "fog": Look(0.85, (190, 190, 188), (178, 178, 176), 7.0, 0.55),
}


class Props:
    """Draws everything upright of one town."""

    def __init__(self, town: Town, scenery: Scenery) -> None:
        self._signals = town.signals
        self._signal_at = np.array([[signal.x, signal.y] for signal in town.signals])
        self._scenery = scenery
        self._middles: Floats = scenery.box_corners.mean(axis=1)

    def draw(self, image: Image, lens: Lens, look: Look, simulation: Simulation) -> None:
        """Draw onto `image` in place."""
        foggy = look.sight < 20.0
        far = 22.0 if foggy else 95.0
        jobs: list[tuple[float, Callable[[], None]]] = []
        for index, depth in _in_sight(lens, self._middles, far, 12.0):
            jobs.append((depth, lambda index=index: self._house(image, lens, look, index)))  # type: ignore[misc]
        for index, depth in _in_sight(lens, self._scenery.trees[:, :2], far * 0.8, 3.0):
            jobs.append((depth, lambda index=index: self._tree(image, lens, look, index)))  # type: ignore[misc]
        shown = simulation.shown()
        places = np.array([[other.x, other.y] for other in shown])
        for index, depth in _in_sight(lens, places, _VEHICLE_SIGHT_FOG if foggy else 90.0, 4.0):
            jobs.append((depth, lambda other=shown[index]: vehicle(image, lens, look, other)))  # type: ignore[misc]
        for index, depth in _in_sight(lens, self._signal_at, _LAMP_SIGHT_FOG if foggy else 90.0, 4.0):
            signal = self._signals[index]
            light = simulation.signals.light(signal.junction, signal.arm)
            jobs.append((depth, lambda s=signal, light=light: traffic_light(image, lens, look, s, light)))  # type: ignore[misc]
        for _, job in sorted(jobs, key=lambda item: -item[0]):
            job()

    def _house(self, image: Image, lens: Lens, look: Look, index: int) -> None:
        corners, height = self._scenery.box_corners[index], float(self._scenery.box_heights[index])
        colour = self._scenery.box_colours[index]
        for side in range(4):
            a, b = corners[side], corners[(side + 1) % 4]
            if not _faces(lens, a, b):
                continue
            depth = max(1.0, float(np.hypot(*((a + b) / 2 - (lens.x, lens.y)))))
            tone = look.hazy(_scale(colour, 1.0 if side % 2 == 0 else 0.78), depth)
            _wall(image, lens, a, b, 0.0, height, tone)
            if depth < 45.0:
                lit = look.light < 0.5 and (index + side) % 3 == 0
                glass = look.hazy((150, 220, 250) if lit else _scale(colour, 0.5), depth)
                glass = (120, 190, 230) if lit else glass
                for floor in range(int(height // 3.2)):
                    for start in (0.12, 0.42, 0.72):
                        low = 1.0 + 3.2 * floor
                        _wall(
                            image,
                            lens,
                            a + (b - a) * start,
                            a + (b - a) * (start + 0.17),
                            low,
                            low + 1.3,
                            glass,
                        )

    def _tree(self, image: Image, lens: Lens, look: Look, index: int) -> None:
        x, y, trunk, radius = self._scenery.trees[index].tolist()
        base = lens.camera(np.array([x, y]))
        depth = float(base[2])
        if depth < 1.5:
            return
        scale = FOCAL / depth
        column = int(WIDTH / 2 + base[0] * scale)
        bottom = int(lens.horizon + base[1] * scale)
        top = int(lens.horizon + (base[1] - trunk) * scale)
        half = max(1, int(0.14 * scale))
        cv2.rectangle(image, (column - half, top), (column + half, bottom), look.hazy((50, 70, 95), depth), cv2.FILLED)
        crown = (column, int(top - 0.6 * radius * scale))
        size = (max(1, int(radius * scale)), max(1, int(1.15 * radius * scale)))
        cv2.ellipse(image, crown, size, 0, 0, 360, look.hazy((45, 95, 55), depth), cv2.FILLED)
        lit = (crown[0] - size[0] // 4, crown[1] - size[1] // 4)
        cv2.ellipse(image, lit, (size[0] // 2, size[1] // 2), 0, 0, 360, look.hazy((60, 120, 75), depth), cv2.FILLED)


def vehicle(image: Image, lens: Lens, look: Look, other: Shown) -> None:
    """A car: shadow, body, cabin, lamps."""
    body = _BODIES[other.colour % len(_BODIES)]
    ahead = np.array([math.cos(other.heading), math.sin(other.heading)])
    left = np.array([-ahead[1], ahead[0]])
    middle = np.array([other.x, other.y])
    depth = max(0.5, float(np.hypot(other.x - lens.x, other.y - lens.y)))

    def corners(front: float, back: float, half: float) -> list[Floats]:
        return [middle + s * ahead + w * left for s, w in ((front, half), (back, half), (back, -half), (front, -half))]

    shadow = lens.polygon(lens.camera(np.array(corners(2.45, -2.45, 1.1))))
    if shadow is not None:
        cv2.fillPoly(image, [shadow], look.hazy((30, 30, 30), depth), cv2.LINE_8, SHIFT)
    for front, back, half, low, high, tone in (
        (2.3, -2.3, 0.95, 0.28, 0.98, body),
        (1.1, -1.8, 0.8, 0.98, 1.5, (70, 60, 50)),
    ):
        _block(image, lens, look, corners(front, back, half), low, high, tone, depth, roof=body)
    dim = look.light < 0.9
    tail = middle - 2.31 * ahead
    head = middle + 2.31 * ahead
    for place, lamp, facing in (
        (
            tail,
            (30, 30, 255) if other.braking else (15, 15, 175) if dim else look.hazy((35, 30, 140), depth),
            (tail - middle),
        ),
        (head, (225, 245, 250) if dim else look.hazy((235, 240, 240), depth), (head - middle)),
    ):
        if float(facing @ (np.array([lens.x, lens.y]) - place)) <= 0.0:
            continue
        for side in (-0.68, 0.68):
            centre = place + side * left
            _wall(image, lens, centre - 0.2 * left, centre + 0.2 * left, 0.6, 0.86, lamp)
        if place is tail and other.braking:
            _wall(image, lens, tail - 0.35 * left, tail + 0.35 * left, 1.4, 1.5, lamp)


def traffic_light(image: Image, lens: Lens, look: Look, signal: Signal, light: Light) -> None:
    """A pole on the right, an arm over the lane, and the housing with its three lamps."""
    ahead = np.array([math.cos(signal.heading), math.sin(signal.heading)])
    left = np.array([-ahead[1], ahead[0]])
    middle = np.array([signal.x, signal.y])
    depth = float(np.hypot(signal.x - lens.x, signal.y - lens.y))
    # Fog takes the lamp's surroundings first: the pole fades as everything does, the lamp reaches farther.
    steel = look.hazy((75, 78, 80), depth)
    foot = middle - 4.2 * left
    across = np.array([lens.sin, -lens.cos])
    _wall(image, lens, foot - 0.11 * across, foot + 0.11 * across, 0.0, 6.8, steel)
    _wall(image, lens, foot, middle, 6.62, 6.8, steel)
    towards = ahead[0] * lens.cos + ahead[1] * lens.sin
    dark = (28, 28, 28) if look.sight > 20.0 else look.hazy((28, 28, 28), depth * 0.35)
    if towards < 0.35:
        half = 0.25 if abs(towards) < 0.7 else 0.6
        _wall(image, lens, middle - half * across, middle + half * across, 3.75, 6.65, dark)
        return
    _wall(image, lens, middle - 0.62 * left, middle + 0.62 * left, 3.7, 6.7, dark)
    for name, colour, up in _LAMPS:
        centre = lens.camera(middle - 0.05 * ahead, up)
        if centre[2] < 1.0:
            continue
        scale = FOCAL / float(centre[2])
        spot = (
            round((WIDTH / 2 + centre[0] * scale) * _ONE),
            round((lens.horizon + centre[1] * scale) * _ONE),
        )
        radius = max(1.0, _LAMP_RADIUS * scale)
        if name == light:
            _halo(image, spot, radius, colour, look.glow)
            cv2.circle(image, spot, round(radius * _ONE), colour, cv2.FILLED, cv2.LINE_AA, SHIFT)
            core = tuple(int(part + (255 - part) * 0.45) for part in colour)
            cv2.circle(image, spot, round(radius * 0.5 * _ONE), core, cv2.FILLED, cv2.LINE_AA, SHIFT)
        else:
            unlit = tuple(int(0.16 * part + 0.6 * shade) for part, shade in zip(colour, dark, strict=True))
            cv2.circle(image, spot, round(radius * _ONE), unlit, cv2.FILLED, cv2.LINE_AA, SHIFT)


def _halo(image: Image, spot: tuple[int, int], radius: float, colour: Colour, glow: float) -> None:
    """Light around a lamp: strongest in fog and at dusk."""
    x, y, reach = spot[0] // _ONE, spot[1] // _ONE, int(radius * 2.4) + 2
    x0, y0, x1, y1 = (
        max(0, x - reach),
        max(0, y - reach),
        min(WIDTH, x + reach),
        min(image.shape[0], y + reach),
    )
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    patch = image[y0:y1, x0:x1]
    rows, columns = np.ogrid[y0 - y : y1 - y, x0 - x : x1 - x]
    weight = (np.clip(1.0 - np.sqrt(rows**2 + columns**2) / reach, 0.0, 1.0) * glow)[..., None]
    patch[:] = (patch * (1.0 - weight) + np.array(colour) * weight).astype(np.uint8)


def _in_sight(lens: Lens, places: Floats, far: float, margin: float) -> list[tuple[int, float]]:
    """(index, depth) of the places [N, 2] that may be in the picture."""
    where = lens.camera(places)
    seen = (where[:, 2] > -margin * 0.4) & (where[:, 2] < far) & (np.abs(where[:, 0]) < where[:, 2] * 0.86 + margin)
    return [(int(index), float(where[index, 2])) for index in np.flatnonzero(seen)]


def _faces(lens: Lens, a: Floats, b: Floats) -> bool:
    """Whether the outer side of the wall from `a` to `b` (counter-clockwise outline) is turned to the camera."""
    return float((b[1] - a[1]) * (lens.x - a[0]) - (b[0] - a[0]) * (lens.y - a[1])) > 0.0


def _wall(image: Image, lens: Lens, a: Floats, b: Floats, low: float, high: float, colour: Colour) -> None:
    points = lens.camera(np.array([a, b, b, a]), np.array([low, low, high, high]))
    flat = lens.polygon(points)
    if flat is not None:
        cv2.fillPoly(image, [flat], colour, cv2.LINE_8, SHIFT)


def _block(
    image: Image,
    lens: Lens,
    look: Look,
    corners: list[Floats],
    low: float,
    high: float,
    colour: Colour,
    depth: float,
    roof: Colour,
) -> None:
    """An upright box; `corners` counter-clockwise from the front left. Its top shows where it is below the eye."""
    top = lens.polygon(lens.camera(np.array(corners), np.full(4, high)))
    if top is not None and high < 1.4:
        cv2.fillPoly(image, [top], look.hazy(_scale(roof, 1.08), depth), cv2.LINE_8, SHIFT)
    for side, tone in enumerate((0.8, 1.0, 0.8, 0.95)):
        a, b = corners[side], corners[(side + 1) % 4]
        if _faces(lens, a, b):
            _wall(image, lens, a, b, low, high, look.hazy(_scale(colour, tone), depth))


def _scale(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, int(part * factor)) for part in colour)  # type: ignore[return-value]
