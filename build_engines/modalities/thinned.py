"""Enough of many numbers to know their mean and deviation, in bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 1 << 21


class Thinned:
    """Arrays that are put in one after the other: all of them while they hold up to `most` numbers together, then every
    second, every fourth and so on, always the same ones."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: list[NDArray[np.generic]] = []
        self._step, self._seen, self._size = 1, 0, 0

    def put(self, values: NDArray[np.generic]) -> None:
        """One more."""
        if self._seen % self._step == 0:
            self._kept.append(values)
            self._size += values.size
        self._seen += 1
        while self._size > self._most and len(self._kept) > 1:
            self._kept, self._step = self._kept[::2], 2 * self._step
            self._size = sum(kept.size for kept in self._kept)

    def values(self) -> NDArray[np.generic]:
        """What was kept, flat; empty where nothing was put in."""
        return np.concatenate([kept.ravel() for kept in self._kept]) if self._kept else np.zeros(0)
