"""Can the confidence be believed? Reliability, and risk against coverage."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

BINS = 15
POINTS = 200
"""At most so many points of a curve are kept."""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Bin(Struct, frozen=True):
    """The answers whose confidence fell into one part of 0 to 1."""

    confidence: float
    """Mean."""
    accuracy: float
    count: int


class Calibration(Struct, frozen=True):
    """How well confidence tells the chance of being right."""

    ece: float
    """Expected calibration error, 15 equal bins (Guo et al. 2017, arXiv:1706.04599)."""
    brier: float
    """Mean square of confidence minus right (1) or wrong (0)."""
    bins: tuple[Bin, ...]


class RiskCoverage(Struct, frozen=True):
    """The share of wrong answers among the most confident ones, by their share of all (arXiv:1705.08500)."""

    coverage: tuple[float, ...]
    """Ascending, up to 1."""
    risk: tuple[float, ...]
    area: float
    """Mean risk over the coverages; 0 = errors come last."""


def calibration(right: Bools, confidence: Floats) -> Calibration:
    """The reliability of `confidence` [N] in 0..1, given which answers were `right` [N]."""
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    truth = right.astype(int)
    accuracy, mean = calibration_curve(truth, confidence, n_bins=BINS, pos_label=1)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=BINS)
    counts = counts[counts > 0]
    return Calibration(
        ece=float(np.sum(counts * np.abs(accuracy - mean)) / counts.sum()),
        brier=float(brier_score_loss(truth, confidence, pos_label=1)),
        bins=tuple(
            Bin(round(float(c), 6), round(float(a), 6), int(n)) for c, a, n in zip(mean, accuracy, counts, strict=True)
        ),
    )


def risk_coverage(right: Bools, confidence: Floats) -> RiskCoverage:
    """Risk at every coverage that a threshold on `confidence` can give; equal confidences are answered together."""
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    last = np.append(np.diff(confidence[order]) != 0, True)
    answered = np.arange(1, len(right) + 1)
    coverage, risk = answered[last] / len(right), wrong[last] / answered[last]
    area = float(np.sum(np.diff(coverage, prepend=0.0) * risk))
    shown = np.unique(np.linspace(0, len(coverage) - 1, POINTS).round().astype(int))
    return RiskCoverage(tuple(coverage[shown].round(6).tolist()), tuple(risk[shown].round(6).tolist()), area)
