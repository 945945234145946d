"""A pinhole camera over flat ground: from metres in the town to pixels, with clipping at the near plane."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 640, 360
FOCAL = 380.0
"""Pixels; a horizontal view of 80 degrees."""
EYE_M = 1.4
NEAR_M = 0.4
_FAR_PIXEL = 4000.0
_SHIFT = 3
"""Fractional bits of the coordinates given to OpenCV."""


class Lens:
    """The camera at one pose: `x`, `y` in metres, `heading` in radians, `horizon` the horizon's row."""

    def __init__(self, x: float, y: float, heading: float, horizon: float) -> None:
        self.x, self.y, self.horizon = x, y, horizon
        self.cos, self.sin = math.cos(heading), math.sin(heading)

    def camera(self, ground: Floats, up: float | Floats = 0.0) -> Floats:
        """[..., 2] town metres at height `up` to [..., 3]: right, down, forward (metres)."""
        dx, dy = ground[..., 0] - self.x, ground[..., 1] - self.y
        out = np.empty((*ground.shape[:-1], 3))
        out[..., 0] = dx * self.sin - dy * self.cos
        out[..., 1] = EYE_M - up
        out[..., 2] = dx * self.cos + dy * self.sin
        return out

    def pixels(self, points: Floats) -> NDArray[np.int32]:
        """[..., 3] camera metres, all in front of the near plane, to [..., 2] fixed-point pixels."""
        scale = FOCAL / points[..., 2:]
        flat = points[..., :2] * scale
        flat[..., 0] += WIDTH / 2
        flat[..., 1] += self.horizon
        np.clip(flat, -_FAR_PIXEL, _FAR_PIXEL, out=flat)
        return (flat * (1 << _SHIFT)).astype(np.int32)

    def polygon(self, points: Floats) -> NDArray[np.int32] | None:
        """One polygon [N, 3] in camera metres, clipped at the near plane, as fixed-point pixels; None if behind."""
        depth = points[:, 2] - NEAR_M
        inside = depth > 0.0
        if inside.all():
            return self.pixels(points)
        if not inside.any():
            return None
        following, next_depth = np.roll(points, -1, axis=0), np.roll(depth, -1)
        crossing = inside != (next_depth > 0.0)
        part = np.where(crossing, depth / np.where(crossing, depth - next_depth, 1.0), 0.0)[:, None]
        both = np.empty((2 * len(points), 3))
        both[0::2], both[1::2] = points, points + part * (following - points)
        keep = np.empty(2 * len(points), bool)
        keep[0::2], keep[1::2] = inside, crossing
        return self.pixels(np.maximum(both[keep], (-1e9, -1e9, NEAR_M)))


SHIFT = _SHIFT
