"""Random changes of pictures while training."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.recipe import AugmentRecipe

_NOISE_FIELDS = 16
"""Noise is drawn once as this many fields and rolled about: fresh noise would cost more than the training step."""


class Augmenter:
    """Changes pictures at random as the recipe says, from its own seeded generator."""

    def __init__(self, plan: AugmentRecipe, seed: int) -> None:
        self._plan = plan
        self._rng = np.random.default_rng(seed)
        self._noise: NDArray[np.int16] | None = None

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`images` uint8 [N, H, W, 3], changed; uint8 again, as the encoder takes it."""
        return np.stack([self._one(image) for image in images]) if self._active else images

    @property
    def _active(self) -> bool:
        plan = self._plan
        return bool(plan.shift or plan.rotate_deg or plan.scale or plan.brightness or plan.noise or plan.flip)

    def _one(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        plan, rng = self._plan, self._rng
        height, width = image.shape[:2]
        if plan.flip and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        if plan.shift or plan.rotate_deg or plan.scale:
            turn, zoom = rng.uniform(-1, 1, 2) * (plan.rotate_deg, plan.scale)
            matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, 1 + zoom)
            matrix[:, 2] += rng.uniform(-1, 1, 2) * (plan.shift * width, plan.shift * height)
            image = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)  # type: ignore[assignment]
        if plan.brightness:
            gain, offset = rng.uniform(-1, 1, 2) * plan.brightness
            table = np.arange(256) * (1 + gain) + offset * 128
            image = cv2.LUT(image, table.round().clip(0, 255).astype(np.uint8))  # type: ignore[assignment]
        if plan.noise:
            image = cv2.add(image, self._field(height, width), dtype=cv2.CV_8U)  # type: ignore[assignment]
        return image

    def _field(self, height: int, width: int) -> NDArray[np.int16]:
        if self._noise is None or self._noise.shape[1:3] != (height, width):
            drawn = self._rng.normal(0.0, self._plan.noise, (_NOISE_FIELDS, height, width, 3))
            self._noise = drawn.round().astype(np.int16)
        field = self._noise[int(self._rng.integers(_NOISE_FIELDS))]
        down, right = self._rng.integers((height, width)).tolist()
        return np.roll(field, (down, right), axis=(0, 1))
