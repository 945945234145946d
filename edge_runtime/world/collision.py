"""When vehicles touch, and whose fault it is."""

from __future__ import annotations

import math

from edge_runtime.world.car import Pose
from edge_runtime.world.traffic import LENGTH, WIDTH


def overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    """Whether two vehicles (x, y, heading) touch, by the separating axis theorem."""
    for heading in (a[2], b[2]):
        for axis in (heading, heading + math.pi / 2):
            ux, uy = math.cos(axis), math.sin(axis)
            reach = 0.0
            for box in (a, b):
                along, across = abs(math.cos(box[2] - axis)), abs(math.sin(box[2] - axis))
                reach += LENGTH / 2 * along + WIDTH / 2 * across
            if abs((b[0] - a[0]) * ux + (b[1] - a[1]) * uy) > reach:
                return False
    return True


def at_fault(pose: Pose, speed: float, place: tuple[float, float]) -> bool:
    """Whether a collision counts against the car at `pose`, with a vehicle of `speed` (m/s) at `place`.

    Not if the other ran into the standing car from behind.
    """
    ahead = (place[0] - pose.x) * math.cos(pose.heading) + (place[1] - pose.y) * math.sin(pose.heading)
    return not (pose.speed < 0.5 and speed > pose.speed and ahead < 0.0)
