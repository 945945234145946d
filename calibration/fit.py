"""Does the calibration set stand for the field? What its activations hold, against those of the evaluation split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from calibration.ranges import BINS, Observed
from edge_runtime.errors import GateRefused

TOO_FAR = 2.0
"""Either split may reach this many times as far as the other: rare values differ from set to set."""
TOO_DIFFERENT = 0.25
"""Largest distance of the two distributions of absolute values (Kolmogorov-Smirnov)."""
POINTS = 1024


class Misfit(Struct, frozen=True):
    """One activation that is another in calibration than in evaluation."""

    tensor: str
    calibrated: float
    """Largest absolute value in the calibration set."""
    evaluated: float
    distance: float
    """Kolmogorov-Smirnov distance of the absolute values, 0 to 1."""


def distance(first: Observed, second: Observed) -> float:
    """Kolmogorov-Smirnov distance between two tensors' absolute values, 0 (alike) to 1, to the bins' precision."""
    places = np.linspace(0, max(first.reach, second.reach), POINTS)
    return float(np.abs(_share_below(first, places) - _share_below(second, places)).max())


def _share_below(observed: Observed, places: NDArray[np.float64]) -> NDArray[np.float64]:
    if observed.reach == 0:
        return np.ones_like(places)
    edges = np.linspace(0, observed.reach, BINS + 1)
    below = np.concatenate([[0], np.cumsum(observed.counts)]) / max(1, observed.counts.sum())
    share: NDArray[np.float64] = np.interp(places, edges, below)
    return share


def misfits(calibration: Mapping[str, Observed], evaluation: Mapping[str, Observed]) -> list[Misfit]:
    """The activations that differ too much in how far they reach or in how they are spread, the worst first."""
    differing = []
    for name, observed in calibration.items():
        other = evaluation[name]
        apart = distance(observed, other)
        low, high = sorted((observed.reach, other.reach))
        if apart > TOO_DIFFERENT or high > TOO_FAR * low:
            differing.append(Misfit(name, observed.reach, other.reach, apart))
    return sorted(differing, key=lambda misfit: (-misfit.distance, misfit.tensor))


def refuse_misfit(stage: str, calibration: Mapping[str, Observed], evaluation: Mapping[str, Observed]) -> float:
    """The largest distance of any activation. Raises GateRefused naming the worst if there is a misfit."""
    differing = misfits(calibration, evaluation)
    if differing:
        worst = differing[0]
        raise GateRefused(
            f"calibrate: {stage}: {len(differing)} activations do not fit the evaluation split; {worst.tensor} reaches "
            f"{worst.calibrated:.4g} in calibration and {worst.evaluated:.4g} in evaluation, their distributions are "
            f"{worst.distance:.2f} apart (at most {TOO_DIFFERENT}): check the choice of samples and the inputs' scaling"
        )
    return max((distance(observed, evaluation[name]) for name, observed in calibration.items()), default=0.0)
