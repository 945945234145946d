"""Random changes of pictures while training."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.recipe import AugmentRecipe

_NOISE_FIELDS = 16
"""Noise is drawn once as this many fields and rolled about: fresh noise would cost more than the training step."""

_ERASED_AREA = (0.02, 0.2)
"""Part of the picture that a rectangle covers."""
_ERASED_STRETCH = 2.0
"""Its sides' ratio is the picture's times or divided by up to this."""
_BLUR = 0.025
"""Largest deviation of a blur, in widths."""
_LEAST_BLUR = 0.3
"""Deviations from here on, in pixels: below it a blur changes nothing."""
_DIMMEST = 0.15
"""Smallest gain of a dim picture."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How the pictures of a batch were mixed with each other."""

    partner: NDArray[np.int64]
    """[N]: the picture that each was mixed with."""
    share: float
    """Part of each picture, and so of its label, that is its own."""


class Augmenter:
    """Changes pictures at random as the recipe says, from its own seeded generator."""

    def __init__(self, plan: AugmentRecipe, seed: int) -> None:
        self._plan = plan
        self._rng = np.random.default_rng(seed)
        self._noise: NDArray[np.int16] | None = None

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`images` uint8 [N, H, W, 3], changed; uint8 again, as the encoder takes it."""
        return np.stack([self.changed(image, self._rng) for image in images]) if self.active else images

    @property
    def active(self) -> bool:
        """Whether the recipe asks for any change of a picture by itself."""
        plan = self._plan
        moved = plan.shift or plan.rotate_deg or plan.scale or plan.flip or plan.crop
        return bool(moved or plan.brightness or plan.noise or plan.colour or plan.blur or plan.dim or plan.erase)

    def mix(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Mix | None]:
        """`images` uint8 [N, H, W, 3] mixed with each other as the recipe says, and how; None = left alone."""
        plan, rng = self._plan, self._rng
        if not plan.mixup and not plan.cutmix:
            return images, None
        chosen = rng.random()
        if chosen >= plan.mixup + plan.cutmix:
            return images, None
        partner, share = rng.permutation(len(images)), float(rng.random())  # Beta(1, 1), as both papers have it
        if chosen < plan.mixup:
            blended = images * np.float32(share) + images[partner] * np.float32(1 - share)
            return blended.round().astype(np.uint8), Mix(partner, share)
        height, width = images.shape[1:3]
        side = (1 - share) ** 0.5
        rows, columns = round(height * side), round(width * side)
        down, across = self._box(height, width, rows, columns, rng)
        pasted = images.copy()
        pasted[:, down, across] = images[partner][:, down, across]
        return pasted, Mix(partner, 1 - rows * columns / (height * width))

    def changed(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """One picture [H, W, 3], changed by what `rng` draws."""
        plan = self._plan
        height, width = image.shape[:2]
        if plan.flip and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        if plan.shift or plan.rotate_deg or plan.scale or plan.crop:
            matrix = self._motion(height, width, rng)
            image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        # As in a camera: the lens, then the light that reaches the sensor, then the sensor's own gain and noise.
        if plan.blur and rng.random() < plan.blur:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(_LEAST_BLUR, max(2 * _LEAST_BLUR, _BLUR * width)))  # type: ignore[assignment]
        if plan.dim and rng.random() < plan.dim:
            image = cv2.convertScaleAbs(image, alpha=rng.uniform(_DIMMEST, 1.0))  # type: ignore[assignment]
        if plan.brightness:
            gain, offset = rng.uniform(-1, 1, 2) * plan.brightness
            table = np.arange(256) * (1 + gain) + offset * 128
            image = cv2.LUT(image, table.round().clip(0, 255).astype(np.uint8))  # type: ignore[assignment]
        if plan.colour:
            gains = 1 + rng.uniform(-1, 1, 3) * plan.colour
            table = (np.arange(256)[:, None] * gains).round().clip(0, 255)
            image = cv2.LUT(image, table.astype(np.uint8)[None])  # type: ignore[assignment]
        if plan.erase and rng.random() < plan.erase:
            image = self._erased(image, rng)
        if plan.noise:
            image = cv2.add(image, self._field(height, width, rng), dtype=cv2.CV_8U)  # type: ignore[assignment]
        return image

    def _motion(self, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """The affine matrix [2, 3] of one picture's shift, turn, zoom and crop."""
        plan = self._plan
        turn, zoom = rng.uniform(-1, 1, 2) * (plan.rotate_deg, plan.scale)
        middle = ((width - 1) / 2, (height - 1) / 2)
        matrix = np.asarray(cv2.getRotationMatrix2D(middle, turn, 1 + zoom), np.float64)
        matrix[:, 2] += rng.uniform(-1, 1, 2) * (plan.shift * width, plan.shift * height)
        if plan.crop:
            area, ratio = rng.uniform(1 - plan.crop, 1), (1 + plan.stretch) ** rng.uniform(-1, 1)
            part = np.minimum(1.0, ((area * ratio) ** 0.5, (area / ratio) ** 0.5))
            start = rng.uniform(0, 1, 2) * (1 - part) * (width, height)
            # Before the motion: the part, from `start` on, fills the picture.
            matrix[:, 2] -= matrix[:, :2] @ (start / part)
            matrix[:, :2] /= part
        return matrix

    def _erased(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        area, ratio = rng.uniform(*_ERASED_AREA), _ERASED_STRETCH ** rng.uniform(-1, 1)
        rows, columns = round(height * (area * ratio) ** 0.5), round(width * (area / ratio) ** 0.5)
        box = self._box(height, width, rows, columns, rng)
        image = image.copy()
        image[box] = rng.integers(0, 256, 3)
        return image

    @staticmethod
    def _box(height: int, width: int, rows: int, columns: int, rng: np.random.Generator) -> tuple[slice, slice]:
        """A place for `rows` by `columns` within the picture."""
        top, left = rng.integers((height - rows + 1, width - columns + 1)).tolist()
        return slice(top, top + rows), slice(left, left + columns)

    def _field(self, height: int, width: int, rng: np.random.Generator) -> NDArray[np.int16]:
        if self._noise is None or self._noise.shape[1:3] != (height, width):
            drawn = self._rng.normal(0.0, self._plan.noise, (_NOISE_FIELDS, height, width, 3))
            self._noise = drawn.round().astype(np.int16)
        field = self._noise[int(rng.integers(_NOISE_FIELDS))]
        down, right = rng.integers((height, width)).tolist()
        return np.roll(field, (down, right), axis=(0, 1))
