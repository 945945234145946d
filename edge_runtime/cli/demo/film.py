"""A film in place of a camera: a hand that shows five fingers and is never quite still."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HZ, SECONDS, SIZE = 5, 10, 240
FINGERS = ((-62, 80), (-22, 100), (-4, 108), (14, 102), (34, 88))
"""Degrees from upright, and pixels from the palm to the tip."""
WALL, SKIN = (196, 200, 204), (120, 150, 205)
"""Blue, green, red."""
GRAIN = 6
"""Levels of noise, either way: no camera gives the same picture twice."""


def write_film(file: Path) -> None:
    """Motion JPEG in AVI, which OpenCV reads and writes by itself."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), HZ, (SIZE, SIZE))
    for index in range(HZ * SECONDS):
        picture = _hand(4 * float(np.sin(index / 6)))
        grain = rng.integers(-GRAIN, GRAIN + 1, picture.shape, np.int16)
        writer.write(np.clip(picture + grain, 0, 255).astype(np.uint8))
    writer.release()


def _hand(sway: float) -> NDArray[np.uint8]:
    picture = np.full((SIZE, SIZE, 3), WALL, np.uint8)
    palm = (round(120 + sway), 150)
    cv2.line(picture, (palm[0], SIZE), palm, SKIN, 50, cv2.LINE_AA)
    cv2.ellipse(picture, palm, (42, 48), 0, 0, 360, SKIN, -1, cv2.LINE_AA)
    for degrees, length in FINGERS:
        turn = np.deg2rad(degrees + sway / 4)
        tip = (round(palm[0] + length * float(np.sin(turn))), round(palm[1] - length * float(np.cos(turn))))
        cv2.line(picture, palm, tip, SKIN, 22, cv2.LINE_AA)
    return picture
