"""How far what was measured is from what it was measured against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from build_engines.fleet.tally import Histogram

SMOOTHING = 0.5
"""Added to every bin: an empty one must not make the index infinite."""


def stability(found: Histogram, expected: Histogram, bins: int) -> float:
    """Population stability index of two histograms of `bins` bins: 0 alike; from 0.25 on another population (Siddiqi,
    Credit Risk Scorecards, 2006)."""
    shares = []
    for histogram in (found, expected):
        counts = np.array([*histogram, *[0] * (bins - len(histogram))]) + SMOOTHING
        shares.append(counts / counts.sum())
    here, there = shares
    return float(((here - there) * np.log(here / there)).sum())


class Distances:
    """How far feature vectors are from the middle of known ones, in the metric of their covariance (Mahalanobis 1936),
    shrunk where there are few (Ledoit and Wolf 2004). Immutable; any thread."""

    def __init__(self, known: NDArray[np.float32]) -> None:
        """`known` [N, features], at least two."""
        from sklearn.covariance import ledoit_wolf

        wide = known.astype(np.float64)
        self._middle = wide.mean(axis=0)
        covariance, _ = ledoit_wolf(wide)
        # A feature that never moves has no scale; a little of the others' keeps it invertible.
        floor = 1e-6 * max(1e-12, float(np.trace(covariance)) / len(covariance))
        self._precision = np.linalg.inv(covariance + floor * np.eye(len(covariance)))
        self._usual = max(1e-12, float(np.median(self._raw(wide))))

    def of(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """[N] distances of [N, features], in those that are usual among the known: half of these are within 1."""
        return self._raw(features.astype(np.float64)) / self._usual

    def _raw(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        apart = features - self._middle
        squares = ((apart @ self._precision) * apart).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(0.0, squares)))
