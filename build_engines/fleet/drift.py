"""How far what was measured is from what it was measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from build_engines.fleet.tally import Histogram

SMOOTHING = 0.5
"""Added to every bin: an empty one must not make the index infinite."""
MOST_NEARER = 30


def stability(found: Histogram, expected: Histogram, bins: int) -> float:
    """Population stability index of two histograms of `bins` bins: 0 alike; from 0.25 on another population (Siddiqi,
    Credit Risk Scorecards, 2006)."""
    shares = []
    for histogram in (found, expected):
        counts = np.array([*histogram, *[0] * (bins - len(histogram))]) + SMOOTHING
        shares.append(counts / counts.sum())
    here, there = shares
    return float(((here - there) * np.log(here / there)).sum())


class Neighbours:
    """How far feature vectors are from known ones of other recordings: from the 30th nearest, or where there are few
    from the one that a fiftieth of them are nearer than (Sun et al., "Out-of-distribution detection with deep nearest
    neighbors", 2022, arXiv:2204.06507). What is odd in less than so many moments stays odd. Immutable; any thread."""

    def __init__(self, known: NDArray[np.float32], recordings: Sequence[str]) -> None:
        """`known` [N, features], each of a recording."""
        self._known = known.astype(np.float64)
        self._squares = (self._known**2).sum(axis=1)
        self._recordings = np.array(recordings)
        self._nearer = max(1, min(MOST_NEARER, len(known) // 50))
        own = [self._raw(self._known[self._recordings == name], name) for name in sorted(set(recordings))]
        usual = np.concatenate(own) if own else np.zeros(0)
        usual = usual[np.isfinite(usual)]
        self._usual = max(1e-12, float(np.median(usual))) if len(usual) else None

    def of(self, features: NDArray[np.float32], recording: str) -> NDArray[np.float64] | None:
        """[N] distances of [N, features] of one recording, in those that are usual among the known: half of these are
        within 1. None where nothing is known of other recordings."""
        if self._usual is None:
            return None
        found = self._raw(features.astype(np.float64), recording) / self._usual
        return found if np.isfinite(found).all() else None

    def _raw(self, features: NDArray[np.float64], recording: str) -> NDArray[np.float64]:
        others = self._recordings != recording
        if not others.any():
            return np.full(len(features), np.inf)
        known, squares = self._known[others], self._squares[others]
        apart = (features**2).sum(axis=1)[:, None] + squares[None, :] - 2.0 * features @ known.T
        place = min(self._nearer, len(known)) - 1
        return np.asarray(np.sqrt(np.maximum(0.0, np.partition(apart, place, axis=1)[:, place])))
