"""A decision drawn onto its picture: for people to look at, not for machines to read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray

from edge_runtime.decision_fields import Prediction
from edge_runtime.errors import UserError

COLOURS = ((180, 119, 31), (14, 127, 255), (189, 103, 148), (34, 189, 188), (75, 86, 140), (207, 190, 23))
"""Blue, green and red of each class in turn, told apart by the colour-blind too (of Tableau's ten)."""
BAND = 0.06
"""Height of the band with the decision, as a share of the picture's height; at least BAND_PX."""
BAND_PX = 24
LEAST_WIDTH = 320
"""Smaller pictures are drawn enlarged."""


def draw(picture: NDArray[np.uint8], prediction: Prediction) -> NDArray[np.uint8]:
    """A copy of `picture` (uint8 [height, width, 3] BGR), enlarged by a whole number up to LEAST_WIDTH, with a band
    below it that says the decision, and a box with class and score for each thing that was found.
    """
    times = max(1, -(-LEAST_WIDTH // picture.shape[1]))
    drawn = np.asarray(cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_NEAREST), np.uint8)
    height, width = drawn.shape[:2]
    band = max(BAND_PX, round(BAND * height))
    drawn = np.pad(drawn, ((0, band), (0, 0), (0, 0)), constant_values=32)
    thick = max(1, round(height / 400))
    for box in () if isinstance(prediction.detections, UnsetType) else prediction.detections:
        left, top, right, bottom = (
            round(share * side) for share, side in zip(box.box, (width, height) * 2, strict=True)
        )
        colour = COLOURS[sum(box.label.encode()) % len(COLOURS)]
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, thick + 1)
        _say(drawn, f"{box.label} {box.score:.2f}", (left + 2, max(12, top - 4)), colour, 0.45 * thick, thick)
    reason = f"  {prediction.reason}" if prediction.reason else ""
    said = f"{prediction.label} {prediction.confidence:.2f} {prediction.source}{reason}"
    white = (255, 255, 255)
    _say(drawn, said, (6, height + round(0.7 * band)), white, band / 45, max(1, round(band / 24)))
    return drawn


def _say(
    drawn: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int], scale: float, thick: int
) -> None:
    """OpenCV's strokes know ASCII only."""
    plain = text.encode("ascii", "replace").decode()
    for shade, width in (((16, 16, 16), thick + 2), (colour, thick)):  # a dark edge: readable on any picture
        cv2.putText(drawn, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, shade, width, cv2.LINE_AA)


class Gallery:
    """A folder of drawn pictures: `NAME.jpg` of a picture, `NAME.mp4` of a film. One thread; close it."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: no folder can be made there ({error.strerror})") from None
        self._folder = folder
        self._used: set[str] = set()
        self._film: tuple[str, cv2.VideoWriter | None] = ("", None)
        self.count = 0
        """Pictures drawn."""

    def add(self, name: str, picture: NDArray[np.uint8], prediction: Prediction, film_hz: float = 0.0) -> None:
        """`picture` as for `draw`; where `film_hz` is given, the next frame of the film `name`. Raises UserError."""
        drawn = draw(picture, prediction)
        if film_hz:
            self._frame(name, drawn, film_hz)
        elif not cv2.imwrite(str(self._place(name, ".jpg")), drawn):
            raise UserError(f"{self._folder}: cannot be written")
        self.count += 1

    def close(self) -> None:
        """Finish the film, if one is open. Harmless when called again."""
        if self._film[1] is not None:
            self._film[1].release()
        self._film = ("", None)

    def _frame(self, name: str, drawn: NDArray[np.uint8], film_hz: float) -> None:
        if self._film[0] != name:
            self.close()
            size = (drawn.shape[1], drawn.shape[0])
            path = self._place(name, ".mp4")
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), film_hz, size)
            if not writer.isOpened():
                raise UserError(f"{path}: cannot be written, or OpenCV has no MPEG-4 here; give a folder of pictures")
            self._film = (name, writer)
        if self._film[1] is not None:
            self._film[1].write(drawn)

    def _place(self, name: str, ending: str) -> Path:
        """A file that this gallery has not written yet."""
        stem, number = Path(name).stem, 1
        while (file := f"{stem}{f'-{number}' if number > 1 else ''}{ending}") in self._used:
            number += 1
        self._used.add(file)
        return self._folder / file
