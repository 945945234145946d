"""What the car measures, with noise: motion, nine range sectors, position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.world.car import Pose
from edge_runtime.world.traffic import LENGTH, WIDTH

SECTORS = 9
HALF_VIEW = math.radians(60.0)
MAX_RANGE_M = 60.0
RANGE_CHANNELS = tuple(f"range_{sector}_m" for sector in range(SECTORS))
"""From left (0) to right (8)."""

_PER_SIDE = 6
_edge = np.linspace(-0.5, 0.5, _PER_SIDE)
_half = np.full(_PER_SIDE, 0.5)
_OUTLINE = np.concatenate(
    [np.stack(pair, 1) for pair in ((_edge, _half), (_edge, -_half), (_half, _edge), (-_half, _edge))]
) * np.array([LENGTH, WIDTH])


def ranges(pose: Pose, others: Sequence[tuple[float, float, float]], rng: np.random.Generator) -> dict[str, float]:
    """Metres from the front bumper to the nearest vehicle in each sector; `others` are x, y, heading (m, rad)."""
    nearest = np.full(SECTORS, MAX_RANGE_M)
    x0 = pose.x + LENGTH / 2 * math.cos(pose.heading)
    y0 = pose.y + LENGTH / 2 * math.sin(pose.heading)
    near = [other for other in others if math.hypot(other[0] - x0, other[1] - y0) < MAX_RANGE_M + LENGTH]
    if near:
        table = np.array(near)
        cos, sin = np.cos(table[:, 2])[:, None], np.sin(table[:, 2])[:, None]
        x = table[:, :1] + _OUTLINE[:, 0] * cos - _OUTLINE[:, 1] * sin - x0
        y = table[:, 1:2] + _OUTLINE[:, 0] * sin + _OUTLINE[:, 1] * cos - y0
        distance: NDArray[np.float64] = np.hypot(x, y)
        bearing = np.arctan2(y, x) - pose.heading
        bearing = (bearing + math.pi) % (2 * math.pi) - math.pi
        sector = np.floor((HALF_VIEW - bearing) / (2 * HALF_VIEW) * SECTORS).astype(np.int64)
        seen = (sector >= 0) & (sector < SECTORS)
        np.minimum.at(nearest, sector[seen], distance[seen])
    noisy = np.clip(nearest + rng.normal(0.0, 0.1, SECTORS) * (nearest < MAX_RANGE_M), 0.0, MAX_RANGE_M)
    return {name: round(value, 3) for name, value in zip(RANGE_CHANNELS, noisy.tolist(), strict=True)}


def motion(pose: Pose, rng: np.random.Generator) -> dict[str, float]:
    """Speed, yaw rate, acceleration."""
    noise = rng.normal(0.0, 1.0, 3).tolist()
    return {
        "speed_mps": round(max(0.0, pose.speed + 0.05 * noise[0]), 4),
        "yaw_rate_radps": round(pose.yaw_rate + 0.01 * noise[1], 5),
        "accel_mps2": round(pose.accel + 0.1 * noise[2], 4),
    }


def position(pose: Pose, rng: np.random.Generator) -> dict[str, float]:
    """Where a satellite receiver and a compass say the car is."""
    noise = rng.normal(0.0, 1.0, 3).tolist()
    return {
        "x_m": round(pose.x + 0.5 * noise[0], 3),
        "y_m": round(pose.y + 0.5 * noise[1], 3),
        "heading_rad": round((pose.heading + 0.01 * noise[2] + math.pi) % (2 * math.pi) - math.pi, 5),
    }
